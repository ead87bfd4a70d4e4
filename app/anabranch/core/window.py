"""Counts over the last seconds: a ring of buckets, so that the past falls out by itself and nothing is kept for each call."""

from typing import Final


class RollingWindow:
    """Calls, failed calls and slow calls of the last `window_s` seconds, exact to a tenth of that.

    bucket of an instant = floor(now / (window_s / 10)); a bucket is cleared when its turn comes round again. Adding is O(1): at most ten
    buckets are cleared, and sums are kept beside the ring. A clock that stands still or goes back counts into the newest bucket.
    """

    __slots__ = ("_calls", "_failures", "_newest", "_slow", "_width_s", "calls", "failures", "slow")

    BUCKETS: Final = 10

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / self.BUCKETS
        self._newest = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls = [0] * self.BUCKETS
        self._failures = [0] * self.BUCKETS
        self._slow = [0] * self.BUCKETS
        self.calls = 0
        self.failures = 0
        self.slow = 0

    def advance(self, now: float) -> None:
        """Let what is too old fall out. `calls`, `failures` and `slow` are right after this or `add`."""
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
            place = index % self.BUCKETS
            self.calls -= self._calls[place]
            self.failures -= self._failures[place]
            self.slow -= self._slow[place]
            self._calls[place] = self._failures[place] = self._slow[place] = 0

    def add(self, now: float, *, is_failure: bool, is_slow: bool = False) -> None:
        """Count one call that ended at `now`."""
        self.advance(now)
        place = self._newest % self.BUCKETS
        self._calls[place] += 1
        self.calls += 1
        if is_failure:
            self._failures[place] += 1
            self.failures += 1
        if is_slow:
            self._slow[place] += 1
            self.slow += 1
