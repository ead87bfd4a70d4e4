"""A queueing model of an upstream under load, on a simulated clock: each worker serves one exchange, the others wait in its queue.

Calls arrive at random (Poisson) and pass a bulkhead that admits as many exchanges as a `Limit` allows. `trace` records the limit over time.
"""

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from anabranch.core.limit import Limit


@dataclass(slots=True, kw_only=True)
class Overload:
    """`rate`: calls a second. `service_s`: mean time of work on one exchange. `jitter`: its spread; 0.5 is half to one and a half times.
    `timeout_s`: after it a client drops the exchange; the upstream still completes the work. `queue`: calls that may wait in the
    bulkhead."""

    limit: Limit
    rate: float
    workers: int
    service_s: float
    timeout_s: float
    jitter: float = 0.5
    queue: int = 64
    seed: int = 1
    now: float = 0.0
    answered: int = 0
    dropped: int = 0
    rejected: int = 0
    in_flight: int = 0
    trace: list[tuple[float, int, float]] = field(default_factory=list)
    """(time, limit, seconds that the exchange took), one for each completed exchange."""
    _events: list[tuple[float, int, str, int]] = field(default_factory=list)
    _waiting: int = 0
    _backlog: deque[int] = field(default_factory=deque)
    _busy: int = 0
    _serial: int = 0
    _began: dict[int, float] = field(default_factory=dict)

    def run(self, until: float) -> None:
        """Advance to the instant `until`. Change `workers`, `rate` or `service_s` between runs."""
        random = Random(f"{self.seed} {self.now}")
        if not any(kind == "arrive" for _, _, kind, _ in self._events):
            self._push(random.expovariate(self.rate), "arrive", 0)
        while self._events and self._events[0][0] <= until:
            self.now, _, kind, exchange = heappop(self._events)
            if kind == "arrive":
                self._push(random.expovariate(self.rate), "arrive", 0)
                if self._waiting < self.queue:
                    self._waiting += 1
                else:
                    self.rejected += 1
            elif kind == "served":
                self._busy -= 1
                self._end(exchange, "success")
            elif exchange in self._began:
                self._end(exchange, "dropped")
            self._admit()
            self._work(random)
        self.now = until

    def limits(self, since: float, until: float) -> list[int]:
        """The limit at the end of each exchange between two instants."""
        return [limit for time, limit, _ in self.trace if since <= time < until]

    def mean_s(self, since: float, until: float) -> float:
        """Mean time of the exchanges that ended between two instants."""
        times = [elapsed for time, _, elapsed in self.trace if since <= time < until]
        return sum(times) / len(times)

    def _push(self, delay_s: float, kind: str, exchange: int) -> None:
        self._serial += 1
        heappush(self._events, (self.now + delay_s, self._serial, kind, exchange))

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.limit.limit:
            self._waiting -= 1
            self.in_flight += 1
            self._serial += 1
            self._began[self._serial] = self.now
            self._backlog.append(self._serial)
            self._push(self.timeout_s, "timeout", self._serial)

    def _work(self, random: Random) -> None:
        while self._backlog and self._busy < self.workers:
            exchange = self._backlog.popleft()
            self._busy += 1
            self._push(self.service_s * random.uniform(1 - self.jitter, 1 + self.jitter), "served", exchange)

    def _end(self, exchange: int, outcome: str) -> None:
        began = self._began.pop(exchange, None)
        if began is None:
            return
        elapsed_s = self.now - began
        self.limit.sample(self.now, elapsed_s, self.in_flight, "success" if outcome == "success" else "dropped")
        self.in_flight -= 1
        self.answered += outcome == "success"
        self.dropped += outcome == "dropped"
        self.trace.append((self.now, self.limit.limit, elapsed_s))
