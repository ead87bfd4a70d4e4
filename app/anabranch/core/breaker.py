"""The circuit breaker's states and what moves it between them. It knows calls only by permits and outcomes, and time by what it is told."""

from typing import Final, Literal

from anabranch.core.window import RollingWindow

State = Literal["closed", "open", "half_open"]
Judgement = Literal["success", "failure", "ignore"]


class Permit:
    """Leave for one call. Give it back by exactly one `Breaker.record`."""

    __slots__ = ("generation", "serial")

    def __init__(self, generation: int, serial: int) -> None:
        self.generation: Final = generation
        self.serial: Final = serial


class Breaker:
    """Leaves an upstream alone while it fails, and tries it carefully afterwards.

        closed    -> open       calls >= minimum_calls in the window, and failures / calls >= failure_rate or slow / calls >= slow_rate
        open      -> half_open  at the first `allow` after open_for_s
        half_open -> closed     `probes` calls succeeded
        half_open -> open       one probe failed or was slow

    Every move begins a new `generation`. What is recorded under a permit of an earlier one is ignored: a call that began before the
    breaker opened says nothing about whether the upstream has recovered.

    Half-open gives out `probes` permits. An ignored probe (cancelled, rejected further in) gives its permit back. One that reports
    nothing within open_for_s frees its place for another, so that a lost permit cannot keep the breaker half-open for ever; should it
    report later after all, it counts.

    All times are seconds of one steady clock. Every method is O(1).

    **Source:** Nygard, Release It!, "Circuit Breaker"; Resilience4j, CircuitBreaker (slow-call rate, permitted calls in half-open).
    """

    __slots__ = (
        "_closed_permit", "_failure_rate", "_minimum_calls", "_open_for_s", "_opened_at", "_out", "_probes", "_serial", "_slow_after_s",
        "_slow_rate", "_succeeded", "_window", "generation", "state",
    )  # fmt: skip

    def __init__(
        self,
        *,
        window_s: float,
        failure_rate: float,
        minimum_calls: int,
        open_for_s: float,
        probes: int,
        slow_after_s: float | None = None,
        slow_rate: float = 1.0,
    ) -> None:
        """Rates are shares between 0 and 1; 0 opens at the first failure (or slow call) once `minimum_calls` are there."""
        self.state: State = "closed"
        self.generation = 0
        self._window = RollingWindow(window_s)
        self._failure_rate = failure_rate
        self._minimum_calls = minimum_calls
        self._open_for_s = open_for_s
        self._probes = probes
        self._slow_after_s = slow_after_s
        self._slow_rate = slow_rate
        self._closed_permit = Permit(0, 0)
        self._opened_at = 0.0
        self._succeeded = 0
        self._serial = 0
        self._out: dict[int, float] = {}  # probe's serial -> when its place is freed; in order of time

    def would_allow(self, now: float) -> bool:
        """Whether `allow` would give a permit. Takes none and moves nothing."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self._opened_at + self._open_for_s
        out = sum(frees_at > now for frees_at in self._out.values())
        return self._succeeded + out < self._probes

    def allow(self, now: float) -> Permit | None:
        """A permit for one call, or None: leave the upstream alone."""
        if self.state == "closed":
            return self._closed_permit
        if not self.would_allow(now):
            return None
        if self.state == "open":
            self._enter("half_open")
            self._succeeded = 0
            self._out.clear()
        for serial in [serial for serial, frees_at in self._out.items() if frees_at <= now]:
            del self._out[serial]
        self._serial += 1
        self._out[self._serial] = now + self._open_for_s
        return Permit(self.generation, self._serial)

    def record(self, now: float, permit: Permit, outcome: Judgement, elapsed_s: float) -> None:
        """Say how the call under `permit` ended. `elapsed_s`: how long it took. `ignore`: it says nothing about the upstream."""
        if permit.generation != self.generation:
            return
        is_slow = self._slow_after_s is not None and elapsed_s > self._slow_after_s and outcome != "ignore"
        if self.state == "half_open":
            self._out.pop(permit.serial, None)
            if outcome == "failure" or is_slow:
                self._open(now)
            elif outcome == "success":
                self._succeeded += 1
                if self._succeeded >= self._probes:
                    self._enter("closed")
                    self._window.clear()
                    self._closed_permit = Permit(self.generation, 0)
        elif outcome != "ignore":
            window = self._window
            window.add(now, is_failure=outcome == "failure", is_slow=is_slow)
            if window.calls < self._minimum_calls:
                return
            has_failed = window.failures > 0 and window.failures >= self._failure_rate * window.calls
            if has_failed or (window.slow > 0 and window.slow >= self._slow_rate * window.calls):
                self._open(now)

    def retry_after_s(self, now: float) -> float:
        """Seconds until a call can be let through at the latest; 0 when it can be now."""
        if self.would_allow(now):
            return 0.0
        if self.state == "open":
            return self._opened_at + self._open_for_s - now
        return min((frees_at for frees_at in self._out.values() if frees_at > now), default=now) - now

    def _open(self, now: float) -> None:
        self._enter("open")
        self._opened_at = now

    def _enter(self, state: State) -> None:
        self.state = state
        self.generation += 1
