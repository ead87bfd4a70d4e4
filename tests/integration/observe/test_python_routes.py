"""Python routes are observed like endpoints of the document."""

import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.otlp import receiving

DOCUMENT = """\
version: 1
upstreams: {{users: {{url: "{url}"}}, orders: {{url: "{url}"}}}}
endpoints: [{{path: /document, steps: {{s: {{upstream: users, path: /users/ann}}}}}}]
routers: ["tests.support.fan_routes:router"]
"""
BEHAVIOUR: dict[str, Any] = {"/users/{name}": {"json": {"name": "ann"}}, "/orders": {"status": 500}}


async def test_each_request_is_counted_and_logged_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with ScriptedUpstream(BEHAVIOUR) as upstream:
        document = DOCUMENT.format(url=upstream.url)
        async with running_gateway(document, tmp_path, access_log="all", log_format="json") as gateway, gateway.client() as client:
            assert (await client.get("/profiles/ann", headers={"x-request-id": "r-1"})).status_code == 200
            assert (await client.get("/both")).status_code == 502
            assert (await client.get("/document")).status_code == 200
            refused = await client.get("/patient")
            assert refused.status_code == 422
            assert (await client.get("/nothing")).status_code == 404
            for path in ("/livez", "/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == 200
            metrics = (await client.get("/metrics")).text
    counted = {line for line in metrics.splitlines() if line.startswith("anabranch_requests_total")}
    assert counted == {
        'anabranch_requests_total{complete="none",endpoint="none",status="404"} 1.0',
        'anabranch_requests_total{complete="true",endpoint="get_document",status="200"} 1.0',
        'anabranch_requests_total{complete="false",endpoint="/profiles/{name}",status="200"} 1.0',
        'anabranch_requests_total{complete="false",endpoint="/both",status="502"} 1.0',
        'anabranch_requests_total{complete="none",endpoint="/patient",status="422"} 1.0',
    }
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(event["endpoint"], event["status"]) for event in events] == [
        ("/profiles/{name}", 200),
        ("/both", 502),
        ("get_document", 200),
        ("/patient", 422),
        (None, 404),
    ]
    assert (events[0]["request_id"], events[0]["complete"]) == ("r-1", False)
    assert events[3]["request_id"] == refused.headers["x-request-id"]
    assert {step["reason"] for step in events[0]["steps"]} == {"ok", "upstream_status"}


async def test_span_of_a_route_is_the_parent_of_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        async with ScriptedUpstream(BEHAVIOUR) as upstream:
            document = DOCUMENT.format(url=upstream.url)
            async with running_gateway(document, tmp_path, tracing=True) as gateway, gateway.client() as client:
                await client.get("/profiles/ann")
                await client.get("/document")
        route, endpoint = [span for span in receiver.spans if span.kind == "server"]
    assert (route.name, route.attributes["http.response.status_code"]) == ("GET /profiles/{name}", 200)
    calls = [span for span in receiver.spans if span.kind == "client" and span.trace_id == route.trace_id]
    assert [span.parent_id for span in calls] == [route.span_id] * 2
    assert endpoint.trace_id != route.trace_id
