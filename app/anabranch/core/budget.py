"""A budget for extra attempts (retries, hedges): a share of the recent calls, so that retries cannot amplify an outage.

    allowed while   spent < floor + ratio * calls        (both counted over the last `window_s`)

With a ratio of 10%, an upstream that fails every call gets 1.1 times the traffic, not 3 times. The floor allows retries to an upstream
that is seldom called. Pure: the current time is an argument.

**Source:** Finagle's RetryBudget (ratio, floor per second and window); Google SRE book, "Handling Overload", per-client retry budget.
"""

from typing import Final

_SLICES: Final = 10


class Budget:
    """Counts calls and extra attempts in a ring of ten slices of the window. Every operation is O(1).

    `ratio`: extra attempts as a share of calls, 0 and up. `window_s`: how far back counts reach, rounded down to a slice (a tenth of it).
    `floor`: extra attempts allowed within any window, however few calls there were.
    """

    __slots__ = ("_calls", "_calls_in", "_floor", "_number", "_ratio", "_slice", "_slice_ends", "_slice_s", "_spent", "_spent_in")

    def __init__(self, ratio: float, *, window_s: float = 10.0, floor: int = 10) -> None:
        self._ratio = ratio
        self._floor = floor
        self._slice_s = window_s / _SLICES
        self._number = float("-inf")
        self._slice = 0
        self._slice_ends = float("-inf")
        self._calls_in = [0] * _SLICES
        self._spent_in = [0] * _SLICES
        self._calls = 0
        self._spent = 0

    @classmethod
    def of_share(cls, ratio: float) -> "Budget":
        """The budget for a share set in the document: 0 disables extra attempts, so it has no floor either."""
        return cls(ratio) if ratio > 0 else cls(0.0, floor=0)

    def record(self, now: float) -> None:
        """Count a call (its first attempt) at `now`, seconds of any steady clock."""
        if now >= self._slice_ends:
            self._advance(now)
        self._calls_in[self._slice] += 1
        self._calls += 1

    def try_spend(self, now: float) -> bool:
        """Spend one extra attempt. Returns False, and counts nothing, if the budget is used up."""
        if now >= self._slice_ends:
            self._advance(now)
        if self._spent + 1 > self._floor + self._ratio * self._calls:
            return False
        self._spent_in[self._slice] += 1
        self._spent += 1
        return True

    def balance(self, now: float) -> float:
        """How many extra attempts are left at `now`; never below 0."""
        if now >= self._slice_ends:
            self._advance(now)
        return max(self._floor + self._ratio * self._calls - self._spent, 0.0)

    def _advance(self, now: float) -> None:
        """Advance to the slice of `now` and clear those that have left the window."""
        number = now // self._slice_s
        for _ in range(int(min(number - self._number, _SLICES))):
            self._slice = (self._slice + 1) % _SLICES
            self._calls -= self._calls_in[self._slice]
            self._spent -= self._spent_in[self._slice]
            self._calls_in[self._slice] = self._spent_in[self._slice] = 0
        self._number = number
        self._slice_ends = (number + 1) * self._slice_s
