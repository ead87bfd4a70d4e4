"""Execution times since the start and of the last minutes, on a fake clock."""

from typing import Any

import pytest

from anabranch.engine.event import ResponseEvent
from anabranch.errors import UpstreamTimeout
from anabranch.observe.timing import WINDOW_S, Timing, Timings
from tests.support.clock import FakeClock
from tests.support.edge_plans import endpoint, outcome, result


def ask(timings: Timings, elapsed_s: float, *, status: int = 200, failed: bool = False) -> None:
    made = result(outcome("flight", elapsed_ms=elapsed_s * 500, failure=UpstreamTimeout("late") if failed else None))
    timings.observer_of(endpoint())(
        ResponseEvent("get_briefing", "GET", "/briefing", status, None, not failed, elapsed_s, made, b"r-1", None, 10)
    )


def only(timings: Timings) -> Any:
    (shown,) = timings.report()["endpoints"]
    return shown


def test_figures_of_an_endpoint_and_its_steps() -> None:
    timings = Timings(FakeClock())
    for elapsed_s in (0.01, 0.02, 0.03, 0.04, 0.1):
        ask(timings, elapsed_s)
    shown = only(timings)
    recent = shown["recent"]
    assert (recent["count"], recent["max_ms"]) == (5, 100)
    assert recent["mean_ms"] == pytest.approx(40)
    assert recent["p50_ms"] == pytest.approx(30, rel=0.03)
    assert shown["since_start"] == recent
    (step,) = shown["steps"]
    assert step["step"] == "flight"
    assert step["recent"]["max_ms"] == 50


def test_failures_are_requests_with_status_500_or_above_and_failed_steps() -> None:
    timings = Timings(FakeClock())
    ask(timings, 0.01, failed=True)
    ask(timings, 0.01, status=504, failed=True)
    shown = only(timings)
    assert (shown["failed"], shown["steps"][0]["failed"]) == (1, 2)


def test_window_drops_old_requests_and_the_total_keeps_them() -> None:
    clock = FakeClock()
    timings = Timings(clock)
    ask(timings, 5.0)
    clock.advance(2 * WINDOW_S + 1)
    ask(timings, 0.01)
    shown = only(timings)
    assert (shown["recent"]["count"], shown["recent"]["max_ms"]) == (1, 10)
    assert (shown["since_start"]["count"], shown["since_start"]["max_ms"]) == (2, 5000)


def test_nothing_is_counted_twice_when_the_window_moves() -> None:
    timing = Timing()
    for second in range(0, 4000, 10):
        timing.add(float(second), 0.01)
    assert timing.since_start().count == 400
    assert WINDOW_S / 10 <= timing.recent(4000.0).count <= 2 * WINDOW_S / 10


def test_endpoint_without_requests_is_shown_with_zeros() -> None:
    timings = Timings(FakeClock())
    timings.observer_of(endpoint())
    assert only(timings)["recent"] == {"count": 0, "mean_ms": 0, "p50_ms": 0, "p95_ms": 0, "p99_ms": 0, "max_ms": 0}


def test_figures_survive_a_reload() -> None:
    timings = Timings(FakeClock())
    ask(timings, 0.01)
    ask(timings, 0.01)
    assert only(timings)["since_start"]["count"] == 2


def test_requests_without_an_endpoint_are_not_measured() -> None:
    timings = Timings(FakeClock())
    timings.observer_of(None)(ResponseEvent(None, "GET", "/x", 404, "not_found", None, 0.0, None, b"r", None, 0))
    assert timings.report()["endpoints"] == []
