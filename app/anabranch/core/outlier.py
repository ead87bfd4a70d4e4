"""Finds the address that fails while its neighbours do not, and leaves it out for a while."""

from collections.abc import Iterable
from math import inf
from typing import Final

from anabranch.core.window import RollingWindow


class TargetHealth:
    """What is known of one address. `ejected_at`, `ejected_until`: it is left out between these. `ejections`: how often in a row it was."""

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
        """An exchange with an ejected address succeeded. Ends the ejection, True, if it began after that; else it is old news."""
        if now - elapsed_s < self.ejected_at:
            return False
        self.ejected_until = now - elapsed_s
        return True


class OutlierDetector:
    """Ejects an address after CONSECUTIVE failures in a row, or when it fails much more often than the others.

        by rate:  calls >= MINIMUM_CALLS  and  rate >= FAILURE_RATE  and  rate >= 2 * rate of all the others together
        for:      min(BASE_S * 2 ** (ejections - 1), LONGEST_S) seconds

    Never more than half of the addresses are out: where more of them fail, leaving out the bad ones would drown the good ones, and it
    is likely not they who are ill. An address that comes back is on probation: one failure ejects it again, for longer, one success
    ends that. For every BASE_S that it has been back one ejection is forgotten.

    **Source:** Envoy, outlier detection (consecutive failures, growing ejection time, limit on the share ejected).
    """

    __slots__ = ()

    CONSECUTIVE: Final = 5
    MINIMUM_CALLS: Final = 20
    FAILURE_RATE: Final = 0.5
    BASE_S: Final = 5.0
    LONGEST_S: Final = 120.0

    def record(self, now: float, health: TargetHealth, *, is_failure: bool, elapsed_s: float, everyone: Iterable[TargetHealth]) -> bool:
        """Count an exchange that ended at `now`; True when that ejected the address. `everyone`: all addresses, this one included.

        An exchange that began before the address came back is old news and not counted. O(1); O(addresses) only where one may be ejected.
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
        out = sum(other.is_ejected(now) for other in others)
        if (out + 1) * 2 > len(others) + 1:
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
