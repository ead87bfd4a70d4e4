"""How long to wait for the first attempt before a hedge (a second attempt) is sent. Pure: the current time is an argument."""

from math import ceil
from typing import Final, Protocol

from anabranch.core.quantile import RELATIVE_ERROR, RollingSketch

# Minimum time between two computations of the quantile: one costs as much as adding a hundred samples.
_REFRESH_S: Final = 0.5
_MINIMUM_SAMPLES: Final = 20


class HedgeDelay(Protocol):
    """`label`: names the delay in events and notes: `fixed`, or the quantile such as `p95`."""

    label: str

    def delay_s(self, now: float) -> float | None:
        """Seconds to wait for the first attempt; None if there are too few samples to tell."""
        ...

    def add(self, now: float, elapsed_s: float) -> None:
        """Add the sample of an attempt that ended at `now` after `elapsed_s`, without its time in queues.

        An attempt that was cancelled because its hedge won counts too, with its time until then: it is one of the slow ones. Without
        such samples the quantile would sink and hedges would become ever more frequent.
        """
        ...


class FixedDelay:
    """The delay set in the document."""

    __slots__ = ("_delay_s", "label")

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.label = "fixed"

    def delay_s(self, now: float) -> float | None:
        return self._delay_s

    def add(self, now: float, elapsed_s: float) -> None:
        """Does nothing: the delay is fixed."""


class QuantileDelay:
    """A quantile of the upstream's latency over the last one to two `window_s`.

    `label`: sets the quantile, such as `p95`. It needs at least max(20, 1 / (1 - q)) samples, so that p99 is not merely the maximum of
    twenty. With fewer samples there is no delay and nothing is hedged.

    **Source:** Dean and Barroso, "The Tail at Scale", CACM 2013 (hedge after the 95th percentile: about 5% more load).
    """

    __slots__ = ("_delay_s", "_minimum", "_q", "_refresh_at", "_sketch", "label")

    def __init__(self, label: str, *, window_s: float = 30.0) -> None:
        self.label = label
        self._q = float(label[1:]) / 100
        # Rounded before ceil: in binary floating point 1 - 0.99 is slightly more than 0.01.
        self._minimum = max(_MINIMUM_SAMPLES, ceil(round(1 / (1 - self._q), 6)))
        self._sketch = RollingSketch(window_s)
        self._refresh_at = float("-inf")
        self._delay_s: float | None = None

    def delay_s(self, now: float) -> float | None:
        if now >= self._refresh_at:
            recent = self._sketch.recent(now)
            # Upper end of the sketch's error range: if all calls take the same time, a value slightly too low would hedge every one.
            self._delay_s = recent.quantile(self._q) / (1 - RELATIVE_ERROR) if recent.count >= self._minimum else None
            self._refresh_at = now + _REFRESH_S
        return self._delay_s

    def add(self, now: float, elapsed_s: float) -> None:
        self._sketch.add(now, elapsed_s)


def hedge_delay(after: float | str) -> FixedDelay | QuantileDelay:
    """The delay for the document's `hedge.after`: seconds, or a quantile such as `p95`."""
    return QuantileDelay(after) if isinstance(after, str) else FixedDelay(after)
