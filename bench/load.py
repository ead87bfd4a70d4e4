"""The load generator: one process with keep-alive connections that sends requests, and checks and counts every response.

Closed loop: each connection sends its next request as soon as it has its response, so the server determines the rate. Open loop: requests
are due at constant intervals, independent of the server. A latency counts from the moment the request was *due*, not from when a connection
was free for it: a stall of the server counts in every request that was due meanwhile (no coordinated omission).

`python -m bench.load` reads one `Job` as JSON from standard input and prints one `Result`.
"""

import asyncio
import gc
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import cycle
from types import MappingProxyType
from typing import Final, cast

import msgspec
import uvloop

from bench.answers import Answers
from bench.gauge import Gauge
from bench.histogram import Histogram

_DRAIN_S: Final = 5.0
_TICK_S: Final = 0.001
_CONNECTS_AT_ONCE: Final = 100
# With few answers in the interval, requests in flight at its edges dominate a closed loop: then the interval is extended, up to LONGEST.
ENOUGH_ANSWERS: Final = 600
LONGEST: Final = 2.0  # times the requested interval


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one run. `paths`: requested in turn. `headers`: further header fields of each request. `status`, `length`: of every correct body, None for any. `rate`: requests/s of an open loop,
    None for a closed one. `at_once`: how many connections of a closed loop have a request in flight at a time, in turns; None: all of them.
    `pid`: the process whose usage is measured in the same interval."""

    port: int
    paths: list[str]
    length: int | None
    clients: int
    warmup_s: float
    seconds: float
    rate: float | None = None
    at_once: int | None = None
    pid: int | None = None
    headers: dict[str, str] = {}
    status: int = 200


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the measured interval.

    `answered`: correct responses in it. `sent`: requests of the whole job, warm-up included. `errors`: kind to count. `buckets`: of
    `Histogram`, over all requests that were due (open loop) or answered (closed loop) in the interval. `lag_us`: p99 of the generator's own
    delay in sending. `own_cpu_s`: CPU time of the generator. `cpu_s`, `waited_s`, `peak_bytes`: of the server, see `Usage`.
    """

    seconds: float
    answered: int
    errors: dict[str, int]
    buckets: dict[int, int]
    cpu_s: float
    waited_s: float
    peak_bytes: int
    lag_us: float
    own_cpu_s: float
    sent: int


class Client(asyncio.Protocol):
    """One connection, with at most one request in flight."""

    __slots__ = ("_answers", "_load", "_transport", "due", "is_busy")

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._answers = Answers(load.job.length, load.job.status)
        self._transport: asyncio.Transport | None = None
        self.due = 0.0
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, due: float) -> None:
        """Send the next request. `due`: when it should have been sent."""
        assert self._transport is not None
        self.due = due
        self.is_busy = True
        self._transport.write(self._load.next_request())

    def data_received(self, data: bytes) -> None:
        verdict = self._answers.feed(data)
        if verdict is None:
            return
        if verdict == "framing":
            self.abort()
            return
        self.is_busy = False
        self._load.done(self, verdict)

    def abort(self) -> None:
        """Drop the connection; a request in flight counts as lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        was_busy, self.is_busy = self.is_busy, False
        self._load.lost(self, was_busy=was_busy)


class Load:
    """One running job. `measured_from` and `measured_to`: bounds of the measured interval, by `time.perf_counter`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.latencies = Histogram()
        self.lags = Histogram()
        self.errors: Counter[str] = Counter()
        self.answered = 0
        self.sent = 0
        self.measured_from = self.measured_to = float("inf")
        self._requests: Iterator[bytes] = cycle([request(job.port, path, job.headers) for path in job.paths])
        self._idle: deque[Client] = deque()
        self._waiting: deque[float] = deque()
        self._clients: set[Client] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._is_over = False

    async def run(self) -> Result:
        """Connect, warm up, measure, and wait for outstanding responses. Raises OSError when the server is unreachable."""
        for start in range(0, self.job.clients, _CONNECTS_AT_ONCE):
            await asyncio.gather(*(self._connect() for _ in range(start, min(start + _CONNECTS_AT_ONCE, self.job.clients))))
        gc.collect()
        gc.freeze()
        gauge = Gauge(self.job.pid) if self.job.pid is not None else None
        began = time.perf_counter()
        loop = asyncio.create_task(self._keep_rate(began, self.job.rate)) if self.job.rate else None
        if loop is None:
            for _ in range(self.job.at_once or len(self._idle)):
                self._idle.popleft().ask(time.perf_counter())
        await asyncio.sleep(self.job.warmup_s)
        if gauge is not None:
            gauge.begin()
        own_cpu_s = time.process_time()
        self.measured_from = time.perf_counter()
        await asyncio.sleep(self.job.seconds)
        give_up = self.measured_from + self.job.seconds * LONGEST
        while loop is None and self.answered < ENOUGH_ANSWERS and time.perf_counter() < give_up:
            await asyncio.sleep(0.05)
        self.measured_to = time.perf_counter()
        own_cpu_s = time.process_time() - own_cpu_s
        usage = gauge.end() if gauge is not None else None
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        await self._drain()
        self._is_over = True
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for client in list(self._clients):
            client.abort()
        await asyncio.sleep(0)
        return Result(
            seconds=self.measured_to - self.measured_from,
            answered=self.answered,
            errors=dict(self.errors),
            buckets=dict(self.latencies.counts),
            cpu_s=usage.cpu_s if usage is not None else 0.0,
            waited_s=usage.waited_s if usage is not None else 0.0,
            peak_bytes=usage.peak_bytes if usage is not None else 0,
            lag_us=self.lags.percentile_us(99),
            own_cpu_s=own_cpu_s,
            sent=self.sent,
        )

    def next_request(self) -> bytes:
        """The bytes to send next."""
        self.sent += 1
        return next(self._requests)

    def done(self, client: Client, verdict: str) -> None:
        """A response is complete."""
        now = time.perf_counter()
        in_interval = self.measured_from <= now < self.measured_to
        if verdict:
            self.errors[verdict] += self._counts(client.due, now)
        else:
            self.answered += in_interval
            if self._counts(client.due, now):
                self.latencies.record(now - client.due)
        if self.job.rate is None:
            self._idle.append(client)
            if now < self.measured_to:
                self._idle.popleft().ask(now)
        elif self._waiting:
            self._send(client, self._waiting.popleft(), now)
        else:
            self._idle.append(client)

    def lost(self, client: Client, *, was_busy: bool) -> None:
        """A connection was lost; replace it."""
        self._clients.discard(client)
        if self._is_over:
            return
        if was_busy:
            self.errors["lost"] += self._counts(client.due, time.perf_counter())
        else:
            self._idle = deque(other for other in self._idle if other is not client)
        task = asyncio.create_task(self._replace())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _counts(self, due: float, now: float) -> bool:
        """Whether a request counts in the interval: by its due time in an open loop, by its response time in a closed one."""
        return self.measured_from <= (now if self.job.rate is None else due) < self.measured_to

    async def _connect(self) -> None:
        _, client = await asyncio.get_running_loop().create_connection(lambda: Client(self), "127.0.0.1", self.job.port)
        self._clients.add(client)
        self._idle.append(client)

    async def _replace(self) -> None:
        """Reconnect. If the server refuses the connection, retry every 10 ms."""
        while not self._is_over:
            try:
                await self._connect()
                break
            except OSError:
                self.errors["refused"] += 1
                await asyncio.sleep(0.01)
        if self._is_over or not self._idle:
            return
        now = time.perf_counter()
        if self.job.rate is None:
            self._idle.pop().ask(now)
        elif self._waiting:
            self._send(self._idle.pop(), self._waiting.popleft(), now)

    async def _keep_rate(self, began: float, rate: float) -> None:
        """Send due requests, once a millisecond. A request without a free connection waits, and the wait counts in its latency."""
        sent = 0
        while True:
            now = time.perf_counter()
            while (due := began + sent / rate) <= now:
                sent += 1
                if self._idle:
                    self._send(self._idle.popleft(), due, now)
                else:
                    self._waiting.append(due)
            await asyncio.sleep(_TICK_S)

    def _send(self, client: Client, due: float, now: float) -> None:
        client.ask(due)
        if self._counts(due, now):
            self.lags.record(now - due)

    async def _drain(self) -> None:
        """Wait for the responses of requests that were due in the interval. In an open loop, missing ones are errors. Abandoned requests
        would also keep the server busy during the next measurement."""
        give_up = time.perf_counter() + _DRAIN_S
        while time.perf_counter() < give_up and (self._waiting or any(client.is_busy for client in self._clients)):
            await asyncio.sleep(0.01)
        if self.job.rate is None:
            return
        late = [client.due for client in self._clients if client.is_busy] + list(self._waiting)
        if unanswered := sum(self.measured_from <= due < self.measured_to for due in late):
            self.errors["unanswered"] += unanswered


def request(port: int, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The bytes of a GET request."""
    fields = {"Host": f"127.0.0.1:{port}", "Accept": "application/json", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


if __name__ == "__main__":
    result = uvloop.run(Load(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)).run())
    sys.stdout.buffer.write(msgspec.json.encode(result))
