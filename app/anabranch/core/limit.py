"""How many exchanges with one upstream may run at once: a fixed number, or one that adapts to what the upstream can handle.

Only computes the number: samples in, `limit` out. The bulkhead (`app/anabranch/policy/bulkhead.py`) enforces it and reports every
exchange that ended by exactly one `sample`.

**Source:** docs/decisions/0003-adaptive-limits-and-ejection.md.
"""

from collections.abc import Callable
from math import inf, sqrt
from typing import Final, Literal, Protocol

LimitSignal = Literal["success", "ignore", "dropped"]
"""`success`: the elapsed time shows how loaded the upstream is. `dropped`: the upstream is overloaded (timeout, 429, 503, 504).
`ignore`: no information about the load (cancelled, connection refused, other 5xx)."""


class Limit(Protocol):
    """`limit`: how many exchanges may run now; read before each exchange, changed only by `sample`."""

    limit: int

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        """Record one exchange that ended at `now` (seconds, any steady clock) and took `elapsed_s` on the wire, without queueing.

        `in_flight`: exchanges in flight when it ended, including itself. O(1); does not raise.
        """
        ...


class FixedLimit:
    """A limit that never changes."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        """Does nothing: the limit is fixed."""


class AIMDLimit:
    """Additive increase, multiplicative decrease: grows while exchanges succeed, backs off when some are dropped.

        success, and at least half of the limit in use:   limit += 1 / limit      (one more for each limit's worth of successes)
        dropped:                                          limit *= 0.9

    One overload drops many exchanges together. Only an exchange that began after the last decrease can decrease the limit again: the
    others were caused by the load that has already been cut. Latency is ignored, so the upstream's own queue fills until something is
    dropped: choose this limit for upstreams that reject work early or whose latency says nothing about their load.

    **Source:** Chiu and Jain 1989; RFC 6582 section 3.2 for one decrease a flight; Netflix concurrency-limits, AIMDLimit.
    """

    __slots__ = ("_decreased_at", "_estimate", "_maximum", "_minimum", "limit")

    BACKOFF: Final = 0.9

    def __init__(self, initial: int, *, minimum: int, maximum: int) -> None:
        self._estimate = float(initial)
        self._minimum = minimum
        self._maximum = maximum
        self._decreased_at = -inf
        self.limit = initial

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        if outcome == "dropped":
            if now - elapsed_s < self._decreased_at:
                return
            self._decreased_at = now
            self._estimate = max(self._minimum, self._estimate * self.BACKOFF)
        elif outcome == "success" and in_flight * 2 >= self._estimate:
            self._estimate = min(self._maximum, self._estimate + 1 / self._estimate)
        self.limit = int(self._estimate)


class GradientLimit:
    """Follows latency: if exchanges take longer than on an unloaded upstream, they wait in a queue that the gateway itself has caused.

        short    = mean time of a window of samples (0.1 to 1 s, at least 10)
        long     = time when unloaded: exponential average over windows that used less than half of the limit, replaced by probes
        gradient = tolerance * long / short * (share not dropped), kept within 0.5 and 1
        limit    = (1 - smoothing) * limit + smoothing * (gradient * limit + sqrt(limit)), kept within minimum and maximum

    For an upstream that works on K exchanges at once, the limit settles near tolerance * K + sqrt(limit): the square root is the queue
    that keeps the upstream busy. The limit grows only while it is in use. It differs from Gradient2 where that is known to go wrong:

    - Under lasting load Gradient2's long average learns the queue, and the limit drifts to its maximum. Here a loaded window can lower
      `long` but never raise it. Under load `long` is measured by a *probe*: every `probe_interval_s` the limit is briefly cut to a third,
      and only exchanges begun since then count. A third of the settled limit is below K for every K, so the queue is empty by then.
      A probe may go below `minimum`, which is the floor for normal traffic. (Envoy allows only a constant few requests while it measures,
      which rejects bursts.) A probe that lowers `long` a lot is repeated soon: a limit that is far too high needs several to come down.
    - Steady timeouts look like steady latency. Here dropped exchanges are not latency samples, and their share lowers the gradient.

    **Source:** Netflix concurrency-limits, Gradient2Limit and its issues 134 and 137; Envoy, adaptive concurrency filter; BBR's ProbeRTT
    (draft-ietf-ccwg-bbr) for a probe that is a share of the limit.
    """

    __slots__ = (
        "_count", "_dropped", "_ends_at", "_estimate", "_in_flight", "_long_s", "_maximum", "_minimum", "_probe_at", "_probe_interval_s",
        "_probe_since", "_random", "_short_s", "_smoothing", "_tolerance", "_total_s", "limit",
    )  # fmt: skip

    WINDOW_SAMPLES: Final = 10
    PROBE_SAMPLES: Final = 25
    PROBE_CUT: Final = 3
    RISE: Final = 0.05
    FALL: Final = 0.2

    def __init__(
        self,
        initial: int,
        *,
        minimum: int,
        maximum: int,
        random: Callable[[], float],
        tolerance: float = 1.5,
        smoothing: float = 0.2,
        probe_interval_s: float = 30.0,
    ) -> None:
        """`random`: draws from [0, 1); spreads the probes of many gateways. `tolerance`: acceptable latency as a multiple of unloaded."""
        self.limit = initial
        self._estimate = float(initial)
        self._minimum = minimum
        self._maximum = maximum
        self._random = random
        self._tolerance = tolerance
        self._smoothing = smoothing
        self._probe_interval_s = probe_interval_s
        self._probe_at = -inf
        self._probe_since: float | None = None
        self._long_s = 0.0
        self._short_s = 0.0
        self._ends_at = 0.0
        self._count = 0
        self._dropped = 0
        self._in_flight = 0
        self._total_s = 0.0

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        if self._probe_since is not None:
            self._sample_probe(now, elapsed_s, outcome)
            return
        if outcome == "ignore":
            return
        if self._count == 0:
            self._ends_at = now + self._window_s()
        self._count += 1
        self._in_flight = max(self._in_flight, in_flight)
        if outcome == "dropped":
            self._dropped += 1
        else:
            self._total_s += elapsed_s
        if now >= self._ends_at and self._count >= self.WINDOW_SAMPLES:
            self._close_window(now)

    def _window_s(self) -> float:
        return min(max(2 * self._short_s, 0.1), 1.0)

    def _open_window(self, now: float, length_s: float) -> None:
        self._ends_at = now + length_s
        self._count = self._dropped = self._in_flight = 0
        self._total_s = 0.0

    def _close_window(self, now: float) -> None:
        answered = self._count - self._dropped
        is_loaded = self._in_flight * 2 >= self._estimate
        gradient = 1.0
        if answered:
            self._short_s = short_s = max(self._total_s / answered, 1e-6)
            if not self._long_s:
                self._long_s = short_s
            elif short_s < self._long_s:
                self._long_s += self.FALL * (short_s - self._long_s)
            elif not is_loaded:
                self._long_s += self.RISE * (short_s - self._long_s)
            gradient = min(self._tolerance * self._long_s / short_s, 1.0)
        gradient = max(gradient * answered / self._count, 0.5)
        target = gradient * self._estimate + sqrt(self._estimate)
        target = self._estimate + self._smoothing * (target - self._estimate)
        if is_loaded or (self._dropped and target < self._estimate):
            self._estimate = min(max(target, self._minimum), self._maximum)
        if not is_loaded:
            self._probe_at = now + self._probe_interval_s
        if is_loaded and answered and now >= self._probe_at:
            self._probe_since = now
            self.limit = max(int(self._estimate / self.PROBE_CUT), 1)
            self._open_window(now, 1.0 + 10 * self._short_s)
        else:
            self.limit = int(self._estimate)
            self._open_window(now, self._window_s())

    def _sample_probe(self, now: float, elapsed_s: float, outcome: LimitSignal) -> None:
        """Count an exchange that began under the cut limit. End the probe with a new `long`, or with the old one if there were too few."""
        if outcome == "success" and self._probe_since is not None and now - elapsed_s >= self._probe_since:
            self._count += 1
            self._total_s += elapsed_s
        if self._count < self.PROBE_SAMPLES and now < self._ends_at:
            return
        wait_s = self._probe_interval_s * (0.75 + self._random() / 2)
        if self._count >= self.PROBE_SAMPLES:
            measured_s = max(self._total_s / self._count, 1e-6)
            if measured_s < 0.9 * self._long_s:
                wait_s = 20 * self._window_s()
            self._long_s = measured_s
        self._probe_at = now + wait_s
        self._probe_since = None
        self.limit = int(self._estimate)
        self._open_window(now, self._window_s())
