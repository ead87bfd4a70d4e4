"""Counts requests and their steps. The series of an endpoint are looked up once, when its plan is loaded."""

from collections.abc import Iterator
from typing import Final

from anabranch.engine.event import ResponseEvent
from anabranch.engine.outcome import Outcome
from anabranch.observe.counting import Counts, Durations
from anabranch.plan.model import EndpointPlan

NO_ENDPOINT: Final = "none"
_SAMPLED: Final = b"13579bdf"
"""Last hexadecimal digits of a sampled traceparent: an exemplar must point to a trace that is kept."""
_COMPLETE: Final = {True: "true", False: "false", None: "none"}
Key = tuple[int, bool | None, bool]
"""Status, completeness, and whether what was asked for is absent."""


class StepSeries:
    """One step of one endpoint. `reasons`: how often the step ended with each reason."""

    __slots__ = ("durations", "reasons", "upstream")

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.reasons = Counts()
        self.durations = Durations()

    def add(self, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is None:
            self.reasons["ok"] += 1
        else:
            self.reasons[failure.code] += 1
        # A step that never ran has no duration.
        if outcome.elapsed_s:
            self.durations.add(outcome.elapsed_s)


class EndpointSeries:
    """One endpoint; called with each of its requests. `totals`: by status and completeness. `durations`: by status class and
    completeness."""

    __slots__ = ("_cells", "durations", "endpoint", "sent_bytes", "steps", "totals")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.totals: dict[Key, int] = {}
        self.durations: dict[tuple[str, str], Durations] = {}
        self.sent_bytes = 0
        self.steps: dict[str, StepSeries] = {}
        self._cells: dict[Key, Durations] = {}

    def __call__(self, event: ResponseEvent) -> None:
        key = (event.status, None if event.is_absent else event.is_complete, event.is_absent)
        durations = self._cells.get(key)
        if durations is None:
            durations = self._open(key)
        self.totals[key] += 1
        trace = event.traceparent
        if trace is not None and trace[54] in _SAMPLED:
            durations.add_traced(event.elapsed_s, trace[3:35])
        else:
            durations.add(event.elapsed_s)
        self.sent_bytes += event.sent_bytes
        if event.result is not None:
            steps = self.steps
            for outcome in event.result.outcomes:
                series = steps.get(outcome.step)
                if series is not None:
                    series.add(outcome)

    def _open(self, key: Key) -> Durations:
        self.totals[key] = 0
        shared = self.durations.setdefault((f"{key[0] // 100}xx", _completeness(key)), Durations())
        self._cells[key] = shared
        return shared

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Status, completeness and count."""
        for key, count in self.totals.items():
            yield str(key[0]), _completeness(key), count


def _completeness(key: Key) -> str:
    return "absent" if key[2] else _COMPLETE[key[1]]


class RequestMetrics:
    """The series of all endpoints that were ever loaded: a reload must not reset a counter."""

    def __init__(self) -> None:
        self.endpoints: dict[str, EndpointSeries] = {}

    def observer_of(self, plan: EndpointPlan | None) -> "EndpointSeries | _Others":
        """The observer that counts an endpoint's requests; for None, the requests that reach no endpoint of the document."""
        if plan is None:
            return _Others(self)
        series = self.named(plan.name)
        for step in plan.steps:
            known = series.steps.get(step.name)
            if known is None or known.upstream != step.upstream:
                series.steps[step.name] = StepSeries(step.upstream)
        return series

    def named(self, endpoint: str) -> EndpointSeries:
        series = self.endpoints.get(endpoint)
        if series is None:
            series = self.endpoints[endpoint] = EndpointSeries(endpoint)
        return series


class _Others:
    """Counts requests to Python routes, by the route's template, and all requests that reach nothing as one series, whatever their path."""

    __slots__ = ("_metrics", "_none")

    def __init__(self, metrics: RequestMetrics) -> None:
        self._metrics = metrics
        self._none = metrics.named(NO_ENDPOINT)

    def __call__(self, event: ResponseEvent) -> None:
        (self._none if event.endpoint is None else self._metrics.named(event.endpoint))(event)
