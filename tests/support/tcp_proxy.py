"""A TCP proxy between the gateway and an upstream that simulates a bad network: late, slow, cut, reset, silent or closed connections.

Its behaviour is one frozen `Conditions`, which can be replaced while it runs. It forwards bytes and does not interpret HTTP. Real sockets
on loopback, either event loop.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Final, Literal, Self, cast

LOOPBACK: Final = "127.0.0.1"
_RST: Final = struct.pack("ii", 1, 0)
# Interval in which a limited bandwidth is sent: short enough to look like a slow line, long enough to cost little.
_SLICE_S: Final = 0.01
# Enough connections to fill the backlog, so that every caller meets the fault: with a backlog of 0 the kernel keeps one or two.
_FILLERS: Final = 4

Accept = Literal["forward", "swallow", "reset", "ignore", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The state of the network path to the upstream.

    `accept`: what happens to a new connection. `forward`; `swallow` (accepted, then silence forever); `reset` (accepted, then reset);
    `ignore` (neither accepted nor refused: the handshake never completes); `refuse`.
    `is_black_hole`: no byte passes in either direction on any connection, old or new. Held bytes are delivered when it ends.
    `latency_s`, `jitter_s`: delay of bytes from the upstream, plus a random share of the jitter; the order is kept.
    `bytes_per_s`: bandwidth of each connection from the upstream. None: no limit.
    `cut_after`: each connection ends after that many further bytes from the upstream, counted from this change. None: it is not cut.
    `cut_by`: how it ends.
    """

    accept: Accept = "forward"
    is_black_hole: bool = False
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after: int | None = None
    cut_by: Literal["close", "reset"] = "close"

    @property
    def is_clear(self) -> bool:
        """Whether bytes are forwarded without delay or limit."""
        return not (self.is_black_hole or self.latency_s or self.jitter_s or self.bytes_per_s or self.cut_after is not None)


CLEAR: Final = Conditions()


class TCPProxy:
    """An async context manager that listens on its own port, which stays reserved until the end, and forwards to `target`.

    `target`: a port on loopback; a new value applies to new connections. `conditions`: see `Conditions`; change them with `become`.
    Record: `accepted` (connections so far) and `open` (now), both on the gateway's side.
    """

    def __init__(self, target: int, conditions: Conditions = CLEAR, *, seed: int = 1) -> None:
        self.target = target
        self.conditions = conditions
        self.random: Final = Random(seed)
        self.accepted = 0
        self.port = 0
        self._links: set[_Link] = set()
        self._is_through = asyncio.Event()
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._ignoring: list[socket.socket] = []

    @property
    def open(self) -> int:
        return len(self._links)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def become(self, conditions: Conditions) -> None:
        """Change the conditions, for open connections too. When this returns, new connections meet the new conditions."""
        before, self.conditions = self.conditions, conditions
        for link in self._links:
            link.meet(conditions)
        if conditions.is_black_hole:
            self._is_through.clear()
        else:
            self._is_through.set()
        if _listening(before.accept) != _listening(conditions.accept):
            await self._listen()

    def drop(self, by: Literal["close", "reset"] = "reset") -> None:
        """End every open connection now."""
        for link in list(self._links):
            link.end(by)

    async def through(self) -> None:
        """For the connections: wait until the black hole ends."""
        await self._is_through.wait()

    def add(self, link: "_Link") -> None:
        """For the connections: register an accepted one."""
        self._links.add(link)
        self.accepted += 1

    def remove(self, link: "_Link") -> None:
        """For the connections: unregister a closed one."""
        self._links.discard(link)

    async def __aenter__(self) -> Self:
        # Bound but never listening: reserves the port while we refuse connections.
        self._holder = self._bound(0)
        self.port = self._holder.getsockname()[1]
        if not self.conditions.is_black_hole:
            self._is_through.set()
        await self._listen()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        server = self._server
        self._stop_listening()
        links = list(self._links)
        self.drop()
        await asyncio.gather(*(link.ended() for link in links))
        if server is not None:
            await server.wait_closed()
        if self._holder is not None:
            self._holder.close()

    # ------------------------------------------------------------------------------------------------------- listening

    @staticmethod
    def _bound(port: int) -> socket.socket:
        # Created with an explicit protocol: without it, asyncio does not disable Nagle's algorithm.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((LOOPBACK, port))
        sock.setblocking(False)
        return sock

    async def _listen(self) -> None:
        self._stop_listening()
        match _listening(self.conditions.accept):
            case "yes":
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(lambda: _Link(self).near, sock=self._bound(self.port), backlog=4096)
            case "ignore":
                # A full backlog: the kernel drops further connection attempts.
                self._ignoring.append(self._bound(self.port))
                self._ignoring[0].listen(0)
                for _ in range(_FILLERS):
                    filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                    filler.setblocking(False)
                    filler.connect_ex((LOOPBACK, self.port))
                    self._ignoring.append(filler)
            case "no":
                pass

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        ignoring, self._ignoring = self._ignoring, []
        for sock in ignoring:
            sock.close()


def _listening(accept: Accept) -> Literal["yes", "ignore", "no"]:
    return "no" if accept == "refuse" else "ignore" if accept == "ignore" else "yes"


class _Link:
    """A connection of the gateway paired with a connection to the upstream. When either ends, so does the other."""

    def __init__(self, proxy: TCPProxy) -> None:
        self.near: Final = _Side(self)
        self.far: Final = _Side(self)
        self._proxy = proxy
        self._up = _Way(self, self.far, is_back=False)
        self._down = _Way(self, self.near, is_back=True)
        self._dial: asyncio.Task[None] | None = None
        self.is_over = False
        self.near.way, self.far.way = self._up, self._down

    def meet(self, conditions: Conditions) -> None:
        self._down.left = conditions.cut_after

    def opened(self, side: "_Side") -> None:
        if side is self.far:
            if self.is_over:
                side.end("abort")
            else:
                self._up.start()
            return
        self._proxy.add(self)
        conditions = self._proxy.conditions
        self.meet(conditions)
        if conditions.accept == "reset":
            self.end("reset")
        elif conditions.accept == "forward":
            self._dial = asyncio.get_running_loop().create_task(self._connect(), name="proxy connects")

    async def _connect(self) -> None:
        await self._proxy.through()
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, LOOPBACK, self._proxy.target)
        except OSError:
            self.end("reset")

    @property
    def proxy(self) -> TCPProxy:
        return self._proxy

    def finished(self, side: "_Side") -> None:
        """`side` will send no more. The gateway never half-closes, so its end of stream ends the link."""
        if side is self.far:
            self._down.put(None)
        else:
            self.end("close")

    def end(self, by: Literal["close", "reset"]) -> None:
        """End both connections. With `close`, bytes already written still arrive. May be called twice."""
        if self.is_over:
            return
        self.is_over = True
        for task in (self._dial, self._up.task, self._down.task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self.near.end(by)
        self.far.end("abort")

    def lost(self, side: "_Side", error: Exception | None) -> None:
        if side is self.near:
            self._proxy.remove(self)
        self.end("close" if error is None else "reset")

    async def ended(self) -> None:
        tasks = [task for task in (self._dial, self._up.task, self._down.task) if task is not None]
        await asyncio.gather(*tasks, self.near.lost.wait(), return_exceptions=True)
        if self.far.transport is not None:
            await self.far.lost.wait()


class _Side(asyncio.Protocol):
    """One of the two connections of a link. `way`: where bytes received here are sent."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self.way: _Way
        self.transport: asyncio.Transport | None = None
        self.writable: Final = asyncio.Event()
        self.lost: Final = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        self.way.put(data)

    def eof_received(self) -> bool:
        self._link.finished(self)
        return True

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()
        self._link.lost(self, error)

    def end(self, by: Literal["close", "abort", "reset"]) -> None:
        """`close`: after the written bytes are sent. `abort`: at once. `reset`: at once, with an RST to the peer."""
        transport = self.transport
        if transport is None or self.lost.is_set():
            return
        if by != "reset":
            (transport.close if by == "close" else transport.abort)()
            return
        # Through a second descriptor of the same socket, because uvloop's wrapper of the first has no setsockopt.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        transport.abort()


class _Way:
    """One direction of a link: received bytes and when they may be sent. `left`: bytes until the cut; None when there is none.

    A task runs only while bytes are queued.
    """

    def __init__(self, link: _Link, sink: _Side, *, is_back: bool) -> None:
        self._link = link
        self._sink = sink
        self._is_back = is_back
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self.left: int | None = None
        self.task: asyncio.Task[None] | None = None

    def put(self, data: bytes | None) -> None:
        """Forward `data` or queue it; None is the end of the stream."""
        conditions = self._link.proxy.conditions
        is_free = conditions.is_clear and self.left is None and not self._queue and self._sink.transport is not None
        if is_free and data is not None:
            assert self._sink.transport is not None
            self._sink.transport.write(data)
            return
        delay_s = 0.0
        if self._is_back:
            delay_s = conditions.latency_s + conditions.jitter_s * self._link.proxy.random.random()
        due = asyncio.get_running_loop().time() + delay_s
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, data))
        self.start()

    def start(self) -> None:
        """Start sending the queued bytes, if there are any and the sink is connected."""
        if self._queue and self._sink.transport is not None and (self.task is None or self.task.done()):
            self.task = asyncio.get_running_loop().create_task(self._run(), name="proxy forwards")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and not self._link.is_over:
            due, data = self._queue[0]
            await asyncio.sleep(max(due - loop.time(), 0))
            await self._link.proxy.through()
            if data is None:
                self._link.end("close")
                return
            await self._send(data)
            self._queue.popleft()

    async def _send(self, data: bytes) -> None:
        transport = self._sink.transport
        assert transport is not None
        while data:
            rate = self._link.proxy.conditions.bytes_per_s if self._is_back else None
            size = max(int(rate * _SLICE_S), 1) if rate else len(data)
            if self._is_back and self.left is not None:
                size = min(size, self.left)
                self.left -= size
            transport.write(data[:size])
            if self._is_back and self.left == 0:
                self._link.end(self._link.proxy.conditions.cut_by)
                return
            data = data[size:]
            if rate:
                await asyncio.sleep(size / rate)
                await self._link.proxy.through()
            await self._sink.writable.wait()
