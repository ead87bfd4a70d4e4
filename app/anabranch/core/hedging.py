"""How long a first attempt may take before a second one is worth its cost. Pure: the time is handed in."""

from math import ceil
from typing import Final, Protocol

from anabranch.core.quantile import RELATIVE_ERROR, RollingSketch

# The quantile is looked up this often at most: it takes as long as a hundred samples.
_REFRESH_S: Final = 0.5
_MINIMUM_SAMPLES: Final = 20


class HedgeDelay(Protocol):
    """`label`: what the delay is, in a word."""

    label: str

    def delay_s(self, now: float) -> float | None:
        """Seconds to give the first attempt; None when that is not known (yet)."""
        ...

    def add(self, now: float, elapsed_s: float) -> None:
        """Learn from an attempt that ended at `now` after `elapsed_s`, its time in queues left out.

        One that was cancelled because its hedge won counts too, with the time it had taken by then: it is among the slow ones. Without
        it the slow attempts would vanish from the samples, the quantile would sink, and hedges would become ever more frequent.
        """
        ...


class FixedDelay:
    """The delay that the document names."""

    __slots__ = ("_delay_s", "label")

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.label = "fixed"

    def delay_s(self, now: float) -> float | None:
        return self._delay_s

    def add(self, now: float, elapsed_s: float) -> None:
        """Nothing is learned."""


class QuantileDelay:
    """A quantile of the upstream's latency over about the last `window_s` to twice that.

    `label`: such as `p95`, which is also how the quantile is given. It is trusted from max(20, 1 / (1 - q)) samples on, so that p99 is
    not the mere maximum of twenty; with fewer there is no delay and nothing is hedged.

    **Source:** Dean and Barroso, "The Tail at Scale", CACM 2013 (hedge after the 95th percentile: about 5% more load).
    """

    __slots__ = ("_delay_s", "_minimum", "_q", "_refresh_at", "_sketch", "label")

    def __init__(self, label: str, *, window_s: float = 30.0) -> None:
        self.label = label
        self._q = float(label[1:]) / 100
        # Rounded first: 1 - 0.99 is a little more than 0.01 in binary.
        self._minimum = max(_MINIMUM_SAMPLES, ceil(round(1 / (1 - self._q), 6)))
        self._sketch = RollingSketch(window_s)
        self._refresh_at = float("-inf")
        self._delay_s: float | None = None

    def delay_s(self, now: float) -> float | None:
        if now >= self._refresh_at:
            recent = self._sketch.recent(now)
            # The upper end of what the sketch's error allows: where all calls take the same time, one a little too low hedges them all.
            self._delay_s = recent.quantile(self._q) / (1 - RELATIVE_ERROR) if recent.count >= self._minimum else None
            self._refresh_at = now + _REFRESH_S
        return self._delay_s

    def add(self, now: float, elapsed_s: float) -> None:
        self._sketch.add(now, elapsed_s)


def hedge_delay(after: float | str) -> FixedDelay | QuantileDelay:
    """The delay for `hedge.after` of the document: seconds, or a quantile such as `p95`."""
    return QuantileDelay(after) if isinstance(after, str) else FixedDelay(after)
