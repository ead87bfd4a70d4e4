"""CPU time of one upstream exchange without a gateway: on a bare protocol, or on Anabranch's own transport.

The bare protocol shows the lowest possible cost in Python: it connects, writes prepared bytes, parses with httptools, and checks nothing.
`python -m bench.exchange exchange|wire` reads one `Job` as JSON from standard input and prints one `Result`.
"""

import asyncio
import gc
import importlib.util
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import cast

import httptools
import msgspec
import uvloop

from bench.gauge import peak_bytes, waited_s
from bench.histogram import Histogram
from bench.load import Result, request

Exchange = Callable[[int], Awaitable[int]]  # number of the target -> length of the body


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`targets`: (port, path, length of the correct body), used in turn by `clients` coroutines."""

    targets: list[tuple[int, str, int]]
    clients: int
    warmup_s: float
    seconds: float


class Bare(asyncio.Protocol):
    """One connection with one exchange at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, data: bytes) -> "asyncio.Future[bytes]":
        """Send a request; returns a future of the body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())


@asynccontextmanager
async def bare(job: Job) -> AsyncIterator[Exchange]:
    """Exchanges on `Bare` connections, with a stack of idle connections for each target."""
    loop = asyncio.get_running_loop()
    requests = [request(port, path) for port, path, _ in job.targets]
    idle: list[list[Bare]] = [[] for _ in job.targets]

    async def exchange(number: int) -> int:
        pool = idle[number]
        if pool:
            connection = pool.pop()
        else:
            _, connection = await loop.create_connection(Bare, "127.0.0.1", job.targets[number][0])
        body = await connection.ask(requests[number])
        pool.append(connection)
        return len(body)

    yield exchange


@asynccontextmanager
async def wire(job: Job) -> AsyncIterator[Exchange]:
    """Exchanges on Anabranch's transport: one transport for each target, as a gateway has one for each upstream."""
    # Imported here, because the bare exchange must run in a process that has not loaded the gateway.
    from anabranch.core.exchange import Address, Request
    from anabranch.plan.upstream import DEFAULT_POOL
    from anabranch.upstream.wire import WireTransport

    loop = asyncio.get_running_loop()
    addresses = [Address.parse(f"http://127.0.0.1:{port}") for port, _, _ in job.targets]
    requests = [Request(method="GET", target=path) for _, path, _ in job.targets]
    async with AsyncExitStack() as stack:
        pool = replace(DEFAULT_POOL, max_idle=job.clients)
        transports = [await stack.enter_async_context(WireTransport(pool=pool)) for _ in job.targets]

        async def exchange(number: int) -> int:
            answer = await transports[number].exchange(requests[number], addresses[number], loop.time() + 5.0)
            return len(answer.body) if answer.status == 200 else -1

        yield exchange


async def measure(job: Job, exchange: Exchange) -> Result:
    """Run `job.clients` coroutines of exchanges; CPU time is this process's own."""
    loop = asyncio.get_running_loop()
    latencies = Histogram()
    errors = 0
    answered = 0
    measured_from = loop.time() + job.warmup_s
    measured_to = measured_from + job.seconds
    cpu_s = 0.0
    is_measuring = False
    numbers = count()

    async def client() -> None:
        nonlocal errors, answered
        while loop.time() < measured_to:
            number = next(numbers) % len(job.targets)
            began = time.perf_counter()
            length = await exchange(number)
            if is_measuring:
                latencies.record(time.perf_counter() - began)
                answered += 1
                errors += length != job.targets[number][2]

    gc.collect()
    gc.freeze()
    tasks = [asyncio.create_task(client()) for _ in range(job.clients)]
    await asyncio.sleep(job.warmup_s)
    is_measuring = True
    began, cpu_s, waits_s = time.perf_counter(), time.process_time(), waited_s(os.getpid())
    await asyncio.sleep(measured_to - loop.time())
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    waits_s = waited_s(os.getpid()) - waits_s
    is_measuring = False
    await asyncio.gather(*tasks)
    return Result(
        seconds=seconds,
        answered=answered,
        errors={"length": errors} if errors else {},
        buckets=dict(latencies.counts),
        cpu_s=cpu_s,
        waited_s=waits_s,
        peak_bytes=peak_bytes(os.getpid()),
        lag_us=0.0,
        sent=answered,
        own_cpu_s=cpu_s,
    )


def wire_is_missing() -> str | None:
    """Why Anabranch's transport cannot be measured, or None."""
    return None if importlib.util.find_spec("anabranch.upstream.wire") else "anabranch.upstream.wire cannot be imported"


async def main(kind: str) -> None:
    """Read the job, measure, print."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    async with (wire if kind == "wire" else bare)(job) as exchange:
        result = await measure(job, exchange)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
