"""Traces of a complete gateway, received by a real OTLP endpoint."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anabranch.errors import ConfigError
from anabranch.main import create_app
from anabranch.settings import Settings
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.otlp import ReceivedSpan, Receiver, receiving

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1"}
DOCUMENT = """\
version: 1
upstreams:
  a: {{url: "{url}", retry: {{attempts: 2, backoff: 1ms, budget: 100%}}}}
endpoints:
  - path: "/things/{{id}}"
    name: thing
    steps:
      good: {{upstream: a, path: "/good/{{path.id}}", query: {{key: hidden-value}}}}
      bad: {{upstream: a, path: /bad}}
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
        yield made


async def test_request_steps_and_attempts_are_spans_of_one_trace(receiver: Receiver, tmp_path: Path) -> None:
    behaviour = {"/good/{id}": {"json": 1}, "/bad": {"status": 503}}
    async with ScriptedUpstream(behaviour) as upstream:
        async with running_gateway(DOCUMENT.format(url=upstream.url), tmp_path, tracing=True) as gateway, gateway.client() as client:
            answer = await client.get("/things/7", headers=SAMPLED)
            assert answer.json() == {"good": 1, "bad": None}
        told = {hit.header("traceparent") for hit in upstream.hits}
        states = {hit.header("tracestate") for hit in upstream.hits}
    spans = receiver.spans
    assert {span.trace_id for span in spans} == {TRACE_ID}
    (request,) = [span for span in spans if span.kind == "server"]
    assert (request.name, request.parent_id, request.is_error) == ("GET /things/{id}", PARENT_ID, False)
    assert request.attributes["http.route"] == "/things/{id}"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["anabranch.complete"] is False
    steps = {span.name: span for span in spans if span.kind == "internal"}
    assert set(steps) == {"step good", "step bad"}
    assert {step.parent_id for step in steps.values()} == {request.span_id}
    assert steps["step bad"].is_error
    assert steps["step bad"].attributes["error.type"] == "upstream_status"
    assert steps["step bad"].attributes["anabranch.attempts"] == 2
    attempts = [span for span in spans if span.kind == "client"]
    assert [of(attempts, step) for step in (steps["step good"], steps["step bad"])] == [[200], [503, 503]]
    # Each service receives the span of its own attempt as the parent.
    assert told == {f"00-{TRACE_ID}-{span.span_id}-01" for span in attempts}
    assert states == {"vendor=1"}
    assert all(request.start_ns <= span.start_ns <= span.end_ns <= request.end_ns for span in spans)
    assert request.resource["service.name"] == "anabranch"
    assert "hidden-value" not in repr(spans)


def of(attempts: list[ReceivedSpan], step: ReceivedSpan) -> list[int]:
    """Statuses of a step's attempts."""
    return [span.attributes["http.response.status_code"] for span in attempts if span.parent_id == step.span_id]


async def test_request_without_a_trace_starts_one(receiver: Receiver, tmp_path: Path) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, tracing=True) as gateway, gateway.client() as client:
            await client.get("/things/7")
    (request,) = [span for span in receiver.spans if span.kind == "server"]
    assert request.parent_id == ""
    assert len(receiver.spans) == 5


@pytest.mark.parametrize(("flags", "ratio"), [("00", 1.0), (None, 0.0)])
async def test_unsampled_request_makes_no_span_and_services_see_it_unsampled(
    receiver: Receiver, tmp_path: Path, flags: str | None, ratio: float
) -> None:
    headers = {} if flags is None else {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{flags}"}
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, tracing=True, trace_ratio=ratio) as gateway, gateway.client() as client:
            await client.get("/things/7", headers=headers)
        told = [hit.header("traceparent") or "" for hit in upstream.hits]
    assert len(told) == 2
    assert not any(int(header[-2:], 16) & 1 for header in told)
    assert receiver.spans == []


async def test_failed_request_and_client_error_differ(receiver: Receiver, tmp_path: Path) -> None:
    document = DOCUMENT.replace("path: /bad}}", "path: /bad, required: true}}").replace(
        "name: thing", "name: thing\n    parameters: {{id: {{in: path, schema: {{type: integer}}}}}}"
    )
    async with ScriptedUpstream({"/good/{id}": {"json": 1}, "/bad": {"reset": "request"}}) as upstream:
        written = document.format(url=upstream.url)
        async with running_gateway(written, tmp_path, tracing=True) as gateway, gateway.client() as client:
            assert (await client.get("/things/7")).status_code == 502
            assert (await client.get("/things/x")).status_code == 400
    failed, mistaken = [span for span in receiver.spans if span.kind == "server"]
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "connection_lost")
    assert (mistaken.is_error, mistaken.attributes["http.response.status_code"]) == (False, 400)
    assert "error.type" not in mistaken.attributes


async def test_access_log_and_exemplars_name_the_request_span(
    receiver: Receiver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with (
            running_gateway(document, tmp_path, tracing=True, access_log="all", log_format="json") as gateway,
            gateway.client() as client,
        ):
            await client.get("/things/7")
            metrics = (await client.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
    (trace_id,) = {span.trace_id for span in receiver.spans}
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["trace_id"] for event in events] == [trace_id]
    assert f'trace_id="{trace_id}"' in metrics
    assert "anabranch_spans_total" in metrics


async def test_failing_receiver_loses_spans_but_no_request(receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver.status = 400
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, tracing=True) as gateway, gateway.client() as client:
            assert (await client.get("/things/7")).json() == {"good": 1, "bad": 1}
    assert receiver.spans == []
    assert any("export" in record.getMessage().lower() for record in caplog.records)


async def test_without_tracing_the_clients_trace_passes_unchanged(tmp_path: Path) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream:
        async with running_gateway(DOCUMENT.format(url=upstream.url), tmp_path) as gateway, gateway.client() as client:
            await client.get("/things/7", headers=SAMPLED)
        told = {hit.header("traceparent") for hit in upstream.hits}
    assert told == {SAMPLED["traceparent"]}


def test_tracing_without_a_receiver_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9"), "utf-8")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        create_app(Settings(document=path, tracing=True))


def test_missing_sdk_is_reported_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delitem(sys.modules, "anabranch.observe.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    path = tmp_path / "gateway.yaml"
    path.write_text(DOCUMENT.format(url="http://127.0.0.1:9"), "utf-8")
    with pytest.raises(ConfigError, match="otel"):
        create_app(Settings(document=path, tracing=True))
