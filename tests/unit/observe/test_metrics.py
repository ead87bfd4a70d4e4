"""Metrics counted as events and metrics read at scrape time, in both exposition formats."""

from collections.abc import Iterable
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from anabranch.core.exchange import Address
from anabranch.core.metric import Sample
from anabranch.engine.event import ResponseEvent
from anabranch.engine.outcome import Result
from anabranch.errors import BreakerOpen, UpstreamTimeout
from anabranch.observe import catalogue
from anabranch.observe.logs import LOG_LINES_LOST
from anabranch.observe.metrics import _BY_KIND, Metrics
from anabranch.policy.event import EventKind, PolicyEvent
from tests.support.edge_plans import endpoint, outcome, result

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"


def event(
    name: str | None = "get_briefing",
    status: int = 200,
    *,
    made: Result | None = None,
    elapsed_s: float = 0.02,
    traceparent: bytes | None = None,
) -> ResponseEvent:
    is_complete = None if made is None else made.is_complete
    return ResponseEvent(name, "GET", "/briefing", status, None, is_complete, elapsed_s, made, b"r-1", traceparent, 100)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The sample with these labels, or None."""
    body, _ = metrics.render("")
    found = [
        sample.value for family in parse(body.decode()) for sample in family.samples if sample.name == name and sample.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_request_counts_by_endpoint_status_and_completeness() -> None:
    metrics = Metrics()
    observe = metrics.requests.observer_of(endpoint())
    observe(event(made=result()))
    observe(event(made=result(outcome("flight", failure=UpstreamTimeout("late"), elapsed_ms=50))))
    observe(event(status=400))
    assert value(metrics, "anabranch_requests_total", endpoint="get_briefing", status="200", complete="true") == 1
    assert value(metrics, "anabranch_requests_total", endpoint="get_briefing", status="200", complete="false") == 1
    assert value(metrics, "anabranch_requests_total", endpoint="get_briefing", status="400", complete="none") == 1
    assert value(metrics, "anabranch_response_bytes_total", endpoint="get_briefing") == 300


def test_request_durations_share_a_histogram_by_class() -> None:
    metrics = Metrics()
    observe = metrics.requests.observer_of(endpoint())
    for status in (502, 503, 504):
        observe(event(status=status, elapsed_s=0.02))
    labels = {"endpoint": "get_briefing", "class": "5xx", "complete": "none"}
    assert value(metrics, "anabranch_request_duration_seconds_count", **labels) == 3
    assert value(metrics, "anabranch_request_duration_seconds_bucket", le="0.025", **labels) == 3
    assert value(metrics, "anabranch_request_duration_seconds_bucket", le="0.01", **labels) == 0
    assert value(metrics, "anabranch_request_duration_seconds_sum", **labels) == pytest.approx(0.06)


def test_steps_count_by_reason_and_skipped_ones_take_no_time() -> None:
    metrics = Metrics()
    observe = metrics.requests.observer_of(endpoint())
    observe(event(made=result()))
    observe(event(made=result(outcome("flight", failure=BreakerOpen("open", retry_after_s=1.0), elapsed_ms=0))))
    labels = {"endpoint": "get_briefing", "step": "flight"}
    assert value(metrics, "anabranch_steps_total", upstream="flights", reason="ok", **labels) == 1
    assert value(metrics, "anabranch_steps_total", upstream="flights", reason="breaker_open", **labels) == 1
    assert value(metrics, "anabranch_step_duration_seconds_count", **labels) == 1


def test_counters_survive_a_reload() -> None:
    metrics = Metrics()
    metrics.requests.observer_of(endpoint())(event(made=result()))
    metrics.requests.observer_of(endpoint())(event(made=result()))
    assert value(metrics, "anabranch_requests_total", endpoint="get_briefing", status="200", complete="true") == 2


def test_requests_without_an_endpoint_share_one_series() -> None:
    metrics = Metrics()
    observe = metrics.requests.observer_of(None)
    for number in range(100):
        observe(ResponseEvent(None, f"METHOD{number}", f"/{number}", 404, "not_found", None, 0.0, None, b"r", None, 0))
    series = {sample.labels["endpoint"] for family in metrics.collect() for sample in family.samples if "endpoint" in sample.labels}
    assert series == {"none"}
    assert value(metrics, "anabranch_requests_total", endpoint="none", status="404", complete="none") == 100


def test_route_in_python_is_counted_by_its_template() -> None:
    metrics = Metrics()
    metrics.requests.observer_of(None)(event("/things/{id}", made=result(outcome("a"), outcome("b"))))
    assert value(metrics, "anabranch_requests_total", endpoint="/things/{id}", status="200", complete="true") == 1
    # Names of its calls are chosen by the programmer, perhaps a new one for each request.
    assert value(metrics, "anabranch_steps_total", endpoint="/things/{id}", step="a", upstream="as", reason="ok") is None


def test_openmetrics_has_the_trace_as_an_exemplar() -> None:
    metrics = Metrics()
    metrics.requests.observer_of(endpoint())(event(made=result(), elapsed_s=0.02, traceparent=TRACEPARENT))
    body, media_type = metrics.render(OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text")
    exemplars = {
        sample.labels["le"]: sample.exemplar.labels
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars == {"0.025": {"trace_id": "0af7651916cd43dd8448eb211c80319c"}}


def test_unsampled_trace_is_not_an_exemplar() -> None:
    metrics = Metrics()
    metrics.requests.observer_of(endpoint())(event(made=result(), traceparent=TRACEPARENT[:-1] + b"0"))
    assert b'trace_id="' not in metrics.render(OPENMETRICS)[0]


def test_other_clients_get_the_plain_text_format() -> None:
    body, media_type = Metrics().render("*/*")
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in body


def test_attempts_are_counted_by_reason_with_their_duration() -> None:
    metrics = Metrics()
    for reason in ("200", "200", "timeout", "cancelled"):
        metrics.calls(PolicyEvent(upstream="flights", kind="attempt", reason=reason, elapsed_s=0.3, attempt=1))
    assert value(metrics, "anabranch_attempts_total", upstream="flights", reason="200") == 2
    assert value(metrics, "anabranch_attempts_total", upstream="flights", reason="cancelled") == 1
    assert value(metrics, "anabranch_attempt_duration_seconds_bucket", upstream="flights", le="0.5") == 4


@pytest.mark.parametrize("kind", sorted(_BY_KIND))
def test_each_kind_of_policy_event_has_its_counter(kind: EventKind) -> None:
    metrics = Metrics()
    metrics.calls(PolicyEvent(upstream="flights", kind=kind, reason="why"))
    metrics.calls(PolicyEvent(upstream="flights", kind=kind, reason="why"))
    metric = _BY_KIND[kind]
    labels = dict(zip(metric.labels, ("flights", "why"), strict=False))
    assert value(metrics, metric.sample, **labels) == 2


def test_every_kind_of_policy_event_is_tested() -> None:
    assert set(get_args(EventKind)) <= {*_BY_KIND, "attempt", "queue"}


def test_waiting_for_a_slot_is_a_histogram() -> None:
    metrics = Metrics()
    metrics.calls(PolicyEvent(upstream="flights", kind="queue", queue_s=0.03))
    metrics.calls(PolicyEvent(upstream="flights", kind="reject", reason="queue_timeout", queue_s=0.1))
    assert value(metrics, "anabranch_queue_wait_seconds_count", upstream="flights") == 2
    assert value(metrics, "anabranch_rejections_total", upstream="flights", reason="queue_timeout") == 1


def test_moving_adaptive_limit_does_not_create_a_series_for_each_value() -> None:
    metrics = Metrics()
    for limit in range(50):
        metrics.calls(PolicyEvent(upstream="flights", kind="limit", reason=str(limit), address=Address("http", "h", 1)))
    assert value(metrics, "anabranch_limit_changes_total", upstream="flights") == 50


def test_part_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    lost = [0]

    def read() -> Iterable[Sample]:
        return (Sample(LOG_LINES_LOST, (), lost[0]),)

    metrics.watch(read)
    assert value(metrics, "anabranch_log_lines_lost_total") == 0
    lost[0] = 3
    assert value(metrics, "anabranch_log_lines_lost_total") == 3


def test_process_and_build_metrics_are_exposed() -> None:
    metrics = Metrics()
    body, _ = metrics.render("")
    for name in (*catalogue.PROCESS, "anabranch_build_info{", "anabranch_event_loop_lag_seconds_bucket"):
        assert f"\n{name}" in f"\n{body.decode()}"
