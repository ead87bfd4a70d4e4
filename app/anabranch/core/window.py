"""Counts calls over the last seconds in a ring of buckets. Nothing is stored for each call."""

from typing import Final


class RollingWindow:
    """Calls, failed calls and slow calls of the last `window_s` seconds, with a resolution of a tenth of that.

    bucket of an instant = floor(now / (window_s / 10)); a bucket is cleared before it is reused. Adding is O(1): at most ten buckets
    are cleared, and the sums are kept beside the ring. If the clock stands still or goes back, calls count into the newest bucket.
    """

    __slots__ = ("_calls", "_failures", "_newest", "_slow", "_width_s", "calls", "failures", "slow")

    BUCKETS: Final = 10

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / self.BUCKETS
        self._newest = 0
        self.clear()

    def clear(self) -> None:
        """Set every count to 0."""
        self._calls = [0] * self.BUCKETS
        self._failures = [0] * self.BUCKETS
        self._slow = [0] * self.BUCKETS
        self.calls = 0
        self.failures = 0
        self.slow = 0

    def advance(self, now: float) -> None:
        """Drop counts that are too old. `calls`, `failures` and `slow` are up to date after this and after `add`."""
        bucket = int(now / self._width_s)
        passed = bucket - self._newest
        if passed <= 0:
            return
        self._newest = bucket
        if passed >= self.BUCKETS:
            if self.calls:
                self.clear()
            return
        for index in range(bucket - passed + 1, bucket + 1):
            slot = index % self.BUCKETS
            self.calls -= self._calls[slot]
            self.failures -= self._failures[slot]
            self.slow -= self._slow[slot]
            self._calls[slot] = self._failures[slot] = self._slow[slot] = 0

    def add(self, now: float, *, is_failure: bool, is_slow: bool = False) -> None:
        """Count one call that ended at `now`."""
        self.advance(now)
        slot = self._newest % self.BUCKETS
        self._calls[slot] += 1
        self.calls += 1
        if is_failure:
            self._failures[slot] += 1
            self.failures += 1
        if is_slow:
            self._slow[slot] += 1
            self.slow += 1
