"""Counts of durations at a fixed relative precision, after HdrHistogram: a bucket is never wider than 1/128 of its value.

Recording costs the same for every value and drops none, so percentiles far out in the tail are as accurate as the median.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

PRECISION_BITS: Final = 7


def bucket(value_us: int) -> int:
    """The bucket of a duration in microseconds. Values below 256 have their own; above, 128 buckets share each power of two."""
    shift = value_us.bit_length() - PRECISION_BITS - 1
    return value_us if shift <= 0 else (shift << PRECISION_BITS) + (value_us >> shift)


def upper_us(index: int) -> int:
    """The largest duration that falls into bucket `index`."""
    shift = max((index >> PRECISION_BITS) - 1, 0)
    return ((index - (shift << PRECISION_BITS) + 1) << shift) - 1


class Histogram:
    """A multiset of durations. Not thread-safe."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int, counts or {})

    @property
    def total(self) -> int:
        """How many durations were recorded."""
        return sum(self.counts.values())

    def record(self, seconds: float) -> None:
        """Count one duration; it must not be negative."""
        self.counts[bucket(int(seconds * 1e6))] += 1

    def percentile_us(self, percent: float) -> float:
        """The smallest bucket bound that at least `percent` of all durations do not exceed; 0 when there are none."""
        left = self.total * percent / 100
        for index in sorted(self.counts):
            left -= self.counts[index]
            if left <= 1e-9:
                return float(upper_us(index))
        return 0.0
