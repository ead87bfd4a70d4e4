"""Execution-time statistics: how long endpoints and their steps took, since the start and over the last minutes.

Uses streaming sketches: any quantile is accurate within 2%, and memory does not grow. Takes the time from the clock passed in.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from anabranch.core.quantile import Sketch
from anabranch.engine.event import ResponseEvent
from anabranch.plan.model import EndpointPlan

WINDOW_S: Final = 300.0
_SHARES: Final = (0.5, 0.95, 0.99)


class Timing:
    """How long one thing took. Adding costs one addition to a sketch: what leaves the window is merged into the total when the window
    turns."""

    __slots__ = ("_ends", "_newer", "_older", "_past", "failed")

    def __init__(self) -> None:
        self._past = Sketch()
        self._older = Sketch()
        self._newer = Sketch()
        self._ends = float("-inf")
        self.failed = 0

    def add(self, now: float, seconds: float) -> None:
        if now >= self._ends:
            self._turn(now)
        self._newer.add(seconds)

    def since_start(self) -> Sketch:
        return _sum(self._past, self._older, self._newer)

    def recent(self, now: float) -> Sketch:
        """At least the last `WINDOW_S` seconds, at most twice that."""
        if now >= self._ends:
            self._turn(now)
        return _sum(self._older, self._newer)

    def _turn(self, now: float) -> None:
        is_recent = now < self._ends + WINDOW_S
        self._past.merge(self._older)
        if not is_recent:
            self._past.merge(self._newer)
        self._older = self._newer if is_recent else Sketch()
        self._newer = Sketch()
        self._ends = now + WINDOW_S


class EndpointTimings:
    """One endpoint and its steps; called with each request."""

    __slots__ = ("_clock", "endpoint", "requests", "steps")

    def __init__(self, endpoint: str, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.requests = Timing()
        self.steps: dict[str, Timing] = {}
        self._clock = clock

    def __call__(self, event: ResponseEvent) -> None:
        now = self._clock()
        self.requests.add(now, event.elapsed_s)
        if event.status >= 500:
            self.requests.failed += 1
        if event.result is None:
            return
        for outcome in event.result.outcomes:
            timing = self.steps.get(outcome.step)
            if timing is None:
                continue
            if outcome.elapsed_s:
                timing.add(now, outcome.elapsed_s)
            if outcome.failure is not None:
                timing.failed += 1


class Timings:
    """All endpoints that were ever loaded. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._endpoints: dict[str, EndpointTimings] = {}

    def observer_of(self, plan: EndpointPlan | None) -> Callable[[ResponseEvent], None]:
        """The observer that measures an endpoint's requests. Requests that reach no endpoint of the document are not measured."""
        if plan is None:
            return _ignore
        timings = self._endpoints.get(plan.name)
        if timings is None:
            timings = self._endpoints[plan.name] = EndpointTimings(plan.name, self._clock)
        for step in plan.steps:
            timings.steps.setdefault(step.name, Timing())
        return timings

    def report(self) -> dict[str, Any]:
        """Everything as JSON, times in milliseconds. An endpoint without requests is included, with zeros."""
        now = self._clock()
        return {
            "up_s": round(now - self._began, 1),
            "window_s": WINDOW_S,
            "endpoints": [
                {
                    "endpoint": timings.endpoint,
                    **_timing_json(timings.requests, now),
                    "steps": [{"step": name, **_timing_json(timing, now)} for name, timing in timings.steps.items()],
                }
                for timings in self._endpoints.values()
            ],
        }


def _ignore(event: ResponseEvent) -> None:
    pass


def _sum(*sketches: Sketch) -> Sketch:
    total = Sketch()
    for sketch in sketches:
        total.merge(sketch)
    return total


def _timing_json(timing: Timing, now: float) -> dict[str, Any]:
    return {"failed": timing.failed, "since_start": _figures(timing.since_start()), "recent": _figures(timing.recent(now))}


def _figures(sketch: Sketch) -> dict[str, float]:
    p50, p95, p99 = sketch.quantiles(_SHARES)
    return {
        "count": sketch.count,
        "mean_ms": _ms(sketch.mean_s),
        "p50_ms": _ms(p50),
        "p95_ms": _ms(p95),
        "p99_ms": _ms(p99),
        "max_ms": _ms(sketch.max_s),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
