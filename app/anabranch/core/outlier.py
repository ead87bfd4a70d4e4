"""Detects addresses that fail much more often than the others of an upstream, and ejects them for a while."""

from collections.abc import Iterable
from math import inf
from typing import Final

from anabranch.core.window import RollingWindow


class TargetHealth:
    """The health of one address.

    `consecutive`: failures in a row. `ejected_at`, `ejected_until`: begin and end of the last ejection. `ejections`: number of ejections
    that still lengthen the next one.
    """

    __slots__ = ("consecutive", "ejected_at", "ejected_until", "ejections", "window")

    def __init__(self, window_s: float = 10.0) -> None:
        self.window = RollingWindow(window_s)
        self.consecutive = 0
        self.ejections = 0
        self.ejected_at = -inf
        self.ejected_until = -inf

    def is_ejected(self, now: float) -> bool:
        return now < self.ejected_until

    def recover(self, now: float, elapsed_s: float) -> bool:
        """Record that an exchange with an ejected address succeeded.

        Ends the ejection and returns True if the exchange began after it. An earlier exchange proves nothing: False.
        """
        if now - elapsed_s < self.ejected_at:
            return False
        self.ejected_until = now - elapsed_s
        return True


class OutlierDetector:
    """Ejects an address after CONSECUTIVE failures in a row, or if it fails much more often than the others.

        by rate:  calls >= MINIMUM_CALLS  and  rate >= FAILURE_RATE  and  rate >= 2 * rate of all the others together
        for:      min(BASE_S * 2 ** (ejections - 1), LONGEST_S) seconds

    At most half of the addresses are ejected: if more of them fail, the rest would be overloaded, and the cause is probably not the
    addresses. A restored address is on probation: one failure ejects it again for longer, one success ends the probation. Its count of
    ejections drops by one for every BASE_S without an ejection.

    **Source:** Envoy, outlier detection (consecutive failures, growing ejection time, limit on the share ejected).
    """

    __slots__ = ()

    CONSECUTIVE: Final = 5
    MINIMUM_CALLS: Final = 20
    FAILURE_RATE: Final = 0.5
    BASE_S: Final = 5.0
    LONGEST_S: Final = 120.0

    def record(self, now: float, health: TargetHealth, *, is_failure: bool, elapsed_s: float, everyone: Iterable[TargetHealth]) -> bool:
        """Count an exchange that ended at `now`; True if it ejected the address. `everyone`: all addresses, including this one.

        Ignores an exchange that began before the last ejection ended. O(1); O(addresses) only if an ejection is possible.
        """
        if now - elapsed_s < health.ejected_until:
            return False
        health.window.add(now, is_failure=is_failure)
        if not is_failure:
            health.consecutive = 0
            return False
        health.consecutive += 1
        window = health.window
        by_rate = window.calls >= self.MINIMUM_CALLS and window.failures >= self.FAILURE_RATE * window.calls
        if health.consecutive < self.CONSECUTIVE and not by_rate:
            return False
        others = [other for other in everyone if other is not health]
        ejected = sum(other.is_ejected(now) for other in others)
        if (ejected + 1) * 2 > len(others) + 1:
            return False
        if health.consecutive < self.CONSECUTIVE and not self._fails_more(now, window, others):
            return False
        if health.ejections:
            health.ejections = max(health.ejections - int((now - health.ejected_until) / self.BASE_S), 0)
        health.ejections += 1
        health.ejected_at = now
        health.ejected_until = now + min(self.BASE_S * 2.0 ** (health.ejections - 1), self.LONGEST_S)
        health.consecutive = self.CONSECUTIVE - 1
        window.clear()
        return True

    @staticmethod
    def _fails_more(now: float, window: RollingWindow, others: list[TargetHealth]) -> bool:
        for other in others:
            other.window.advance(now)
        calls = sum(other.window.calls for other in others)
        failures = sum(other.window.failures for other in others)
        return window.failures * calls >= 2 * failures * window.calls
