"""Chooses one of several addresses for the next exchange.

A picker sees only the loads of the candidates. The balance layer holds the addresses and their breakers, and excludes those already tried.
Each address has one `Load`, which is kept when the set of addresses changes.
"""

from collections.abc import Callable, Sequence
from math import exp, inf
from typing import Final


class Load:
    """The load of one address.

    `pending`: exchanges in flight. `picked`: sequence number of the choice that last picked this address. The latency is a *peak* moving
    average over unevenly spaced observations: a longer time counts in full at once, a shorter one only as older observations fade.

        w    = exp(-(now - stamp) / DECAY_S)
        cost = elapsed                           where elapsed > cost
               cost * w + elapsed * (1 - w)      elsewhere
        load = cost * w * (pending + 1)

    A failed exchange counts as taking at least FAILURE_S, so that an address that fails fast does not look like the best one. A
    cancelled exchange would have taken at least as long as it ran, so it counts only if it raises the average.

    **Source:** Finagle, loadbalancer/PeakEwma; A. Eckner, Algorithms for Unevenly Spaced Time Series (2017).
    """

    __slots__ = ("_cost_s", "_stamp", "pending", "picked")

    DECAY_S: Final = 10.0
    FAILURE_S: Final = 1.0

    def __init__(self) -> None:
        self.pending = 0
        self.picked = 0
        self._cost_s = 0.0
        self._stamp = -inf

    def begin(self) -> None:
        """Count an exchange that has begun."""
        self.pending += 1

    def end(self, now: float, elapsed_s: float, *, is_ok: bool | None) -> None:
        """Count an exchange that ended `elapsed_s` after it began. `is_ok`: None if it was cancelled."""
        self.pending -= 1
        fade = self._fade(now)
        if is_ok is False:
            elapsed_s = max(elapsed_s, self.FAILURE_S)
        if elapsed_s >= self._cost_s * fade:
            self._cost_s = elapsed_s
        elif is_ok is None:
            return
        else:
            self._cost_s = self._cost_s * fade + elapsed_s * (1 - fade)
        self._stamp = now

    def load(self, now: float) -> float:
        """The cost of one more exchange, in seconds times exchanges. An address without samples gets only one exchange at first."""
        if self._cost_s == 0.0:
            return inf if self.pending else 0.0
        return self._cost_s * self._fade(now) * (self.pending + 1)

    def _fade(self, now: float) -> float:
        return exp(-max(now - self._stamp, 0.0) / self.DECAY_S)


Picker = Callable[[float, Sequence[Load]], int]
"""`picker(now, candidates)`: the index of the chosen candidate. There is at least one candidate. Cost: O(candidates), or O(1)."""


class RoundRobin:
    """Picks the candidate that was picked longest ago. Stays fair when some addresses are excluded for a while."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, now: float, candidates: Sequence[Load]) -> int:
        chosen = 0
        for index, load in enumerate(candidates):
            if load.picked < candidates[chosen].picked:
                chosen = index
        self._count += 1
        candidates[chosen].picked = self._count
        return chosen


class LeastPending:
    """Picks the candidate with the fewest exchanges in flight; round robin among equals."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, now: float, candidates: Sequence[Load]) -> int:
        chosen, best = 0, candidates[0]
        for index, load in enumerate(candidates):
            if load.pending < best.pending or (load.pending == best.pending and load.picked < best.picked):
                chosen, best = index, load
        self._count += 1
        candidates[chosen].picked = self._count
        return chosen


class RandomChoice:
    """Picks any candidate with equal probability. `random` draws from [0, 1)."""

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def __call__(self, now: float, candidates: Sequence[Load]) -> int:
        return int(self._random() * len(candidates))


class PeakEWMA:
    """Picks the less loaded of two different random candidates, by `Load.load`.

    Two random choices keep the longest queue near log log n; one keeps it near log n. Picking the best of all would send all callers
    to the same address at once. **Source:** Mitzenmacher, The Power of Two Choices (2001).
    """

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def __call__(self, now: float, candidates: Sequence[Load]) -> int:
        size = len(candidates)
        if size == 1:
            return 0
        first = int(self._random() * size)
        second = (first + 1 + int(self._random() * (size - 1))) % size
        return first if candidates[first].load(now) <= candidates[second].load(now) else second


def picker_of(kind: str, random: Callable[[], float]) -> Picker:
    """The picker for the document's `balance`: round_robin, least_pending, random or peak_ewma. Raises ValueError for any other."""
    match kind:
        case "round_robin":
            return RoundRobin()
        case "least_pending":
            return LeastPending()
        case "random":
            return RandomChoice(random)
        case "peak_ewma":
            return PeakEWMA(random)
    raise ValueError(f"unknown balance {kind!r}; use round_robin, least_pending, random or peak_ewma")
