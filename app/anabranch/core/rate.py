"""Counting requests against a rate or a quota. Pure: the clock is passed in, and what is counted is kept elsewhere.

A rate is the generic cell rate algorithm: one number for each bucket, the theoretical arrival time, and no windows at whose edges twice the rate
could pass. A quota counts in windows of the calendar, since its period is what people have agreed on.

**Source:** ITU-T I.371 appendix A (GCRA, virtual scheduling).
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

# Seconds since the epoch have a resolution of a quarter of a microsecond as floats: what is due now must not be a microsecond late.
_ROUNDING_S: Final = 1e-6
_ROUNDING: Final = 1e-6
_LONGEST_S: Final = 365 * 86400


class Rate(msgspec.Struct, frozen=True):
    """`count` in each `period_s` seconds. `capacity`: how much may come at once. `is_quota`: counted in windows of `period_s` since the epoch, in UTC; `capacity` is
    the same as `count` then."""

    count: float
    period_s: float
    capacity: float
    is_quota: bool = False

    @property
    def interval_s(self) -> float:
        """Time in which one unit becomes available again."""
        return self.period_s / self.count


class Bucket(msgspec.Struct, frozen=True):
    """What is counted together: all that has the same `key`, against the same `rate`."""

    key: bytes
    rate: Rate


class Verdict(msgspec.Struct, frozen=True):
    """What became of a request in one bucket. `remaining`: whole units that could still be taken at once. `reset_s`: until the bucket is full again; of a quota until its
    window ends. `retry_after_s`: until as much could be taken as was asked for; 0 when it was taken, infinite when it never can be."""

    is_allowed: bool
    remaining: int
    reset_s: float
    retry_after_s: float


def look(rate: Rate, state: float, now: float, cost: float) -> tuple[Verdict, float]:
    """Whether `cost` units may be taken from a bucket, and its state if they are.

    `state`: of a rate the theoretical arrival time; of a quota the number of units that were taken in the window in which `now` lies; 0 for a new bucket. `now`:
    seconds since the epoch.
    """
    if rate.is_quota:
        left_s = rate.period_s - now % rate.period_s
        after = state + cost
        if after > rate.count:
            return Verdict(False, max(int(rate.count - state), 0), left_s, left_s if cost <= rate.count else float("inf")), state
        return Verdict(True, int(rate.count - after), left_s, 0.0), after
    interval_s = rate.interval_s
    arrival = max(state, now)
    after = arrival + cost * interval_s
    allowed_at = after - rate.capacity * interval_s
    if allowed_at > now + _ROUNDING_S:
        wait_s = allowed_at - now if cost <= rate.capacity else float("inf")
        return Verdict(
            False, max(int((now + rate.capacity * interval_s - arrival) / interval_s + _ROUNDING), 0), arrival - now, wait_s
        ), state
    return Verdict(True, max(int((now - allowed_at) / interval_s + _ROUNDING), 0), after - now, 0.0), after


def given_back(verdict: Verdict, rate: Rate, cost: float) -> Verdict:
    """What is left in a bucket that would have allowed `cost` units, and from which none were taken, since another bucket did not allow them."""
    reset_s = verdict.reset_s if rate.is_quota else max(verdict.reset_s - cost * rate.interval_s, 0.0)
    return Verdict(True, verdict.remaining + int(cost), reset_s, 0.0)


def kept_s(rate: Rate, state: float, now: float) -> float:
    """How long the state of a bucket means something: it is that of a new bucket afterwards."""
    return rate.period_s - now % rate.period_s if rate.is_quota else max(state - now, 0.0)


def all_allowed(verdicts: Sequence[Verdict]) -> bool:
    return all(verdict.is_allowed for verdict in verdicts)


def whole_seconds(seconds: float, *, least: int = 1) -> int:
    """A time for a header field such as `Retry-After`: rounded up, one year at most."""
    return max(least, math.ceil(min(seconds, _LONGEST_S) - _ROUNDING_S))
