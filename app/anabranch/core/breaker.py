"""The circuit breaker's states and the transitions between them. It sees permits and outcomes, not calls; the current time is an argument."""

from typing import Final, Literal

from anabranch.core.window import RollingWindow

State = Literal["closed", "open", "half_open"]
Judgement = Literal["success", "failure", "ignore"]


class Permit:
    """Permission for one call. Return it by exactly one `Breaker.record`."""

    __slots__ = ("generation", "serial")

    def __init__(self, generation: int, serial: int) -> None:
        self.generation: Final = generation
        self.serial: Final = serial


class Breaker:
    """Rejects calls to an upstream while it fails, then lets a few probes through to see whether it has recovered.

        closed    -> open       calls >= minimum_calls in the window, and failures / calls >= failure_rate or slow / calls >= slow_rate
        open      -> half_open  at the first `allow` after open_for_s
        half_open -> closed     `probes` calls succeeded
        half_open -> open       one probe failed or was slow

    Every transition begins a new `generation`. Outcomes recorded under a permit of an earlier generation are ignored: a call that began
    before the breaker opened says nothing about whether the upstream has recovered.

    While half-open, the breaker grants `probes` permits. An ignored probe (cancelled, rejected by an inner layer) returns its permit. A probe
    that is not recorded within open_for_s makes room for another one, so that a lost permit cannot keep the breaker half-open for ever. If
    it is recorded later, it still counts.

    All times are seconds of one steady clock. Every method is O(1).

    **Source:** Nygard, Release It!, "Circuit Breaker"; Resilience4j, CircuitBreaker (slow-call rate, permitted calls in half-open).
    """

    __slots__ = (
        "_closed_permit", "_failure_rate", "_minimum_calls", "_open_for_s", "_opened_at", "_probes", "_probing", "_serial", "_slow_after_s",
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
        """Rates are between 0 and 1; 0 opens at the first failure (or slow call) once there are `minimum_calls` in the window."""
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
        self._probing: dict[int, float] = {}  # serial of a probe in flight -> when its permit expires; in order of time

    def would_allow(self, now: float) -> bool:
        """Whether `allow` would grant a permit. Changes nothing."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self._opened_at + self._open_for_s
        in_flight = sum(expires_at > now for expires_at in self._probing.values())
        return self._succeeded + in_flight < self._probes

    def allow(self, now: float) -> Permit | None:
        """A permit for one call, or None if the call must be rejected."""
        if self.state == "closed":
            return self._closed_permit
        if not self.would_allow(now):
            return None
        if self.state == "open":
            self._enter("half_open")
            self._succeeded = 0
            self._probing.clear()
        for serial in [serial for serial, expires_at in self._probing.items() if expires_at <= now]:
            del self._probing[serial]
        self._serial += 1
        self._probing[self._serial] = now + self._open_for_s
        return Permit(self.generation, self._serial)

    def record(self, now: float, permit: Permit, outcome: Judgement, elapsed_s: float) -> None:
        """Record how the call under `permit` ended. `elapsed_s`: how long it took. `ignore`: it says nothing about the upstream's health."""
        if permit.generation != self.generation:
            return
        is_slow = self._slow_after_s is not None and elapsed_s > self._slow_after_s and outcome != "ignore"
        if self.state == "half_open":
            self._probing.pop(permit.serial, None)
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
        """Upper bound of the seconds until a call is allowed; 0 if one is allowed now."""
        if self.would_allow(now):
            return 0.0
        if self.state == "open":
            return self._opened_at + self._open_for_s - now
        return min((expires_at for expires_at in self._probing.values() if expires_at > now), default=now) - now

    def _open(self, now: float) -> None:
        self._enter("open")
        self._opened_at = now

    def _enter(self, state: State) -> None:
        self.state = state
        self.generation += 1
