"""Quantiles of a stream of durations, such as p95, in bounded memory and without keeping the samples.

`Sketch` counts samples in buckets whose bounds grow by a constant factor, so that every quantile has a constant relative error whatever
the distribution. Two sketches merge into the sketch of all samples. `RollingSketch` keeps only recent samples. The current time is an
argument.

    bucket of x = 1 + floor(ln(x / 1 us) / ln(gamma)),   gamma = (1 + error) / (1 - error)

**Source:** Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019.
"""

from math import exp, log
from typing import Final

RELATIVE_ERROR: Final = 0.02
_LN_GAMMA: Final = log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_PER_LN: Final = 1 / _LN_GAMMA
_SMALLEST_S: Final = 1e-6
_LARGEST_S: Final = 3600.0
_OFFSET: Final = 1 - log(_SMALLEST_S) * _PER_LN
# Bucket 0 holds everything up to a microsecond, the last bucket everything from an hour.
_SIZE: Final = int(log(_LARGEST_S) * _PER_LN + _OFFSET) + 1


class Sketch:
    """A distribution of durations: `count`, `total_s`, `max_s`, and any quantile within 2%. About 4 kB. Adding takes about 0.2 us.

    Values up to 1 us share one bucket, and so do values from an hour. `max_s` is exact.
    """

    __slots__ = ("_buckets", "count", "max_s", "total_s")

    def __init__(self) -> None:
        self._buckets = [0] * _SIZE
        self.count = 0
        self.total_s = 0.0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        if seconds <= _SMALLEST_S:
            index = 0
        elif seconds >= _LARGEST_S:
            index = _SIZE - 1
        else:
            index = int(log(seconds) * _PER_LN + _OFFSET)
        self._buckets[index] += 1
        self.count += 1
        self.total_s += seconds
        self.max_s = max(self.max_s, seconds)

    @property
    def mean_s(self) -> float:
        """The mean; 0 if there are no samples."""
        return self.total_s / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """The quantile `q` (0 to 1) in seconds; 0 if there are no samples. About 10 us."""
        return self.quantiles((q,))[0]

    def quantiles(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """Several quantiles in one pass. `shares`: ascending."""
        if not self.count:
            return (0.0,) * len(shares)
        found: list[float] = []
        ranks = [share * (self.count - 1) for share in shares]
        seen = 0
        for index, count in enumerate(self._buckets):
            if not count:
                continue
            seen += count
            while len(found) < len(ranks) and seen > ranks[len(found)]:
                found.append(min(_middle_s(index), self.max_s))
            if len(found) == len(ranks):
                break
        return tuple(found)

    def merge(self, other: "Sketch") -> None:
        """Add the samples of `other`."""
        theirs = other._buckets  # noqa: SLF001 - of the same class
        self._buckets = [mine + their for mine, their in zip(self._buckets, theirs, strict=True)]
        self.count += other.count
        self.total_s += other.total_s
        self.max_s = max(self.max_s, other.max_s)


def _middle_s(index: int) -> float:
    """The value within the relative error of every value in the bucket."""
    if index == 0:
        return _SMALLEST_S
    low = exp((index - _OFFSET) * _LN_GAMMA)
    return low * (1 + RELATIVE_ERROR)


class RollingSketch:
    """A sketch of the recent past: at least the last `window_s` and at most twice that (less right after the start).

    Uses two sketches: when the newer one's window ends, it becomes the older one, and the previous older one is dropped.
    """

    __slots__ = ("_ends", "_newer", "_older", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._ends = float("-inf")
        self._newer = Sketch()
        self._older = Sketch()

    def add(self, now: float, seconds: float) -> None:
        """Count one duration that ended at `now`, seconds of any steady clock."""
        if now >= self._ends:
            self._rotate(now)
        self._newer.add(seconds)

    def recent(self, now: float) -> Sketch:
        """A new sketch of the samples that are recent at `now`."""
        if now >= self._ends:
            self._rotate(now)
        both = Sketch()
        both.merge(self._older)
        both.merge(self._newer)
        return both

    def _rotate(self, now: float) -> None:
        is_recent = now < self._ends + self._window_s
        self._older = self._newer if is_recent else Sketch()
        self._newer = Sketch()
        self._ends = now + self._window_s
