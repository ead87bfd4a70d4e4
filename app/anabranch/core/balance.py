"""Which of several addresses the next exchange goes to. Pure choice: the addresses themselves, their breakers and who has been tried
already are the balance layer's business.

Each address has one `Load`, which outlives changes of the set around it; a picker looks only at the loads that it is offered.
"""

from collections.abc import Callable, Sequence
from math import exp, inf
from typing import Final


class Load:
    """What is known of one address's load.

    `pending`: exchanges under way. `picked`: when it was last chosen, as a count of choices. The latency is a *peak* moving average
    over unevenly spaced observations: a longer time is believed at once, a shorter one as the past fades.

        w    = exp(-(now - stamp) / DECAY_S)
        cost = elapsed                           where elapsed > cost
               cost * w + elapsed * (1 - w)      elsewhere
        load = cost * w * (pending + 1)

    A failed exchange counts as one of at least FAILURE_S, so that an address that fails fast does not look like the best one. A
    cancelled one took at least as long as it ran: it counts only where that is news.

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
        """An exchange has begun."""
        self.pending += 1

    def end(self, now: float, elapsed_s: float, *, is_ok: bool | None) -> None:
        """An exchange has ended, `elapsed_s` after it began. `is_ok`: None when it was cancelled."""
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
        """What the next exchange here would cost, in seconds times exchanges. A fresh address is tried by one exchange at first."""
        if self._cost_s == 0.0:
            return inf if self.pending else 0.0
        return self._cost_s * self._fade(now) * (self.pending + 1)

    def _fade(self, now: float) -> float:
        return exp(-max(now - self._stamp, 0.0) / self.DECAY_S)


Picker = Callable[[float, Sequence[Load]], int]
"""`picker(now, candidates)`: the index of the chosen one. There is at least one candidate. Cost: O(candidates), or O(1)."""


class RoundRobin:
    """Each in turn: the one that was chosen longest ago. Stays fair when some candidates are left out for a while."""

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
    """The one with the fewest exchanges under way; among equals each in turn."""

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
    """Any. `random` draws from [0, 1)."""

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def __call__(self, now: float, candidates: Sequence[Load]) -> int:
        return int(self._random() * len(candidates))


class PeakEWMA:
    """The better of two different random ones by `Load.load`.

    Two random choices keep the longest queue near log log n, where one keeps it near log n, and unlike the best of all they do not send
    everybody to the same address at once. **Source:** Mitzenmacher, The Power of Two Choices (2001).
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
    """The picker that a document calls `kind`: round_robin, least_pending, random or peak_ewma. Raises ValueError for any other."""
    match kind:
        case "round_robin":
            return RoundRobin()
        case "least_pending":
            return LeastPending()
        case "random":
            return RandomChoice(random)
        case "peak_ewma":
            return PeakEWMA(random)
    raise ValueError(f"there is no balance {kind!r}; use round_robin, least_pending, random or peak_ewma")
