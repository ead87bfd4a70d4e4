"""Counts what the policy layers do, by upstream. The one `Observer` of the policies."""

from anabranch.observe.counting import Counts, Durations
from anabranch.policy.event import PolicyEvent


class CallSeries:
    """The counters of one upstream. `counted`: by kind of event, then by reason."""

    __slots__ = ("attempt_durations", "attempts", "counted", "queue_waits")

    def __init__(self) -> None:
        self.attempts = Counts()
        self.attempt_durations = Durations()
        self.queue_waits = Durations()
        self.counted: dict[str, Counts] = {}

    def count(self, event: PolicyEvent) -> None:
        """Count an event that is not an attempt."""
        kind = event.kind
        counts = self.counted.get(kind)
        if counts is None:
            counts = self.counted[kind] = Counts()
        # The reason is the new limit, which has too many values for a label; only the number of changes is counted.
        counts["" if kind == "limit" else event.reason] += 1
        if event.queue_s:
            self.queue_waits.add(event.queue_s)


class CallMetrics:
    """Called with each event of each policy layer."""

    __slots__ = ("upstreams",)

    def __init__(self) -> None:
        self.upstreams: dict[str, CallSeries] = {}

    def __call__(self, event: PolicyEvent) -> None:
        series = self.upstreams.get(event.upstream)
        if series is None:
            series = self.upstreams[event.upstream] = CallSeries()
        if event.kind == "attempt":
            series.attempts[event.reason] += 1
            series.attempt_durations.add(event.elapsed_s)
        else:
            series.count(event)
