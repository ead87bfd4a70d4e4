"""Clients that put a gateway under load, each on one kept-alive connection, with the timings of every step of their responses.

A closed loop: each client sends its next request as soon as it has its response. Cheap enough to share the event loop with the gateway
under test.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from anabranch.testing.serving import LOOPBACK

_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTiming:
    """An entry of Server-Timing. `failure`: the step's failure code; None when it succeeded."""

    ms: float
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response. `headers`: lower-case names, the last of repeated ones. `elapsed_s`: as the client measured it."""

    status: int
    headers: dict[str, str]
    body: bytes
    elapsed_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_complete(self) -> bool:
        return self.headers.get("gateway-complete") == "?1"

    @property
    def steps(self) -> dict[str, StepTiming]:
        """The entries of Server-Timing, by step."""
        found = {}
        for entry in self.headers.get("server-timing", "").split(", "):
            name, *parts = entry.split(";")
            values = dict(part.split("=", 1) for part in parts)
            if name:
                failure = values.get("desc")
                found[name] = StepTiming(ms=float(values["dur"]), failure=failure.strip('"') if failure is not None else None)
        return found


class Visitor:
    """A client on one kept-alive connection, which reconnects when the server has closed it. An async context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, target: str) -> Reply:
        """Send one request. Raises TimeoutError when no response arrives within 30 s, and ConnectionError or EOFError when it is cut
        off."""
        async with asyncio.timeout(_PATIENCE_S):
            loop = asyncio.get_running_loop()
            began = loop.time()
            if self._streams is None:
                self._streams = await asyncio.open_connection(LOOPBACK, self._port, limit=2**24)
            reader, writer = self._streams
            writer.write(f"GET {target} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
            start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if headers.get("connection", "").lower() == "close":
                await self.leave()
            return Reply(status=int(start.split(" ")[1]), headers=headers, body=body, elapsed_s=loop.time() - began)

    async def leave(self) -> None:
        """Close the connection."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()
            await streams[1].wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.leave()


async def closed_loop(port: int, target: str, *, clients: int, requests: int) -> list[Reply]:
    """Send `requests` requests for `target` in total, `clients` at once."""
    left = iter(range(requests))
    replies: list[Reply] = []
    await _together(port, target, clients, lambda: next(left, None) is not None, replies.append)
    return replies


class Load:
    """Continuous load. `replies`: those received so far."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.is_on = True
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, reply: Reply) -> None:
        """For the clients: record a response."""
        self.replies.append(reply)
        for goal, waiter in self._waiters:
            if len(self.replies) >= goal and not waiter.done():
                waiter.set_result(None)

    async def more(self, count: int) -> None:
        """Wait until `count` further responses have arrived. Raises TimeoutError after 30 s."""
        waiter = asyncio.get_running_loop().create_future()
        entry = (len(self.replies) + count, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await waiter
        finally:
            self._waiters.remove(entry)


@asynccontextmanager
async def under_load(port: int, target: str, *, clients: int) -> AsyncIterator[Load]:
    """Keep `clients` requesting `target` while the body runs. On leaving, the requests in flight are awaited."""
    load = Load()
    running = asyncio.create_task(_together(port, target, clients, lambda: load.is_on, load.add), name="load")
    try:
        yield load
    finally:
        load.is_on = False
        await running


async def _together(port: int, target: str, clients: int, has_more: Callable[[], bool], take: Callable[[Reply], None]) -> None:
    async def visit() -> None:
        async with Visitor(port) as visitor:
            while has_more():
                take(await visitor.get(target))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(visit(), name=f"client {number}")


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of `values` that `percent` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
