"""A server with the gateway's own protocol and an application whose behaviour depends on the target, for tests that send raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from anabranch.edge.admission import Admission, Headers
from anabranch.engine.event import Refusal
from anabranch.guard.concurrency import Gate
from anabranch.server.admission_protocol import with_admission
from anabranch.server.http1.connection import BoundedProtocol
from tests.support.eventually import eventually
from tests.support.serving import LOOPBACK

PATIENCE_S: Final = 30.0


class Bounded(BoundedProtocol):
    """Small heads, and practically no time limit."""

    max_head_bytes = 1000
    head_timeout_s = 600.0


class Hasty(Bounded):
    """A very short time limit. Only for heads that arrive completely or never."""

    head_timeout_s = 0.2


class Application:
    """Responds with the length of the body.

    `/gated` waits for `gate` first. `/early` sends its response before it reads the body, `/amid` sends the first part of one, and both
    then read the body to its end. `seen`: paths requested. `gone`: paths whose client disconnected while the body was read.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self.gone: list[str] = []

    def cross_origin_fields(self, origin: bytes | None) -> Headers:
        return [] if origin is None else [(b"access-control-allow-origin", origin)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.seen.append(path)
        if path == "/early":
            await self._answer(send, 0)
        if path == "/amid":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(path)
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        if path == "/gated":
            await self.gate.wait()
        await self._answer(send, size)

    @staticmethod
    async def _answer(send: Send, size: int) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
        await send({"type": "http.response.body", "body": str(size).encode()})


class HeadServer:
    """A running server. `refusals`: the events that its protocol reported."""

    def __init__(self, app: Application, refusals: list[Refusal], state: ServerState) -> None:
        self.app = app
        self.refusals = refusals
        self.port = 0
        self._state = state

    @property
    def open_connections(self) -> int:
        """How many there are, WebSockets included."""
        return len(self._state.connections)

    @property
    def connections(self) -> list[BoundedProtocol]:
        """The open connections."""
        connections: Iterable[object] = self._state.connections
        return [one for one in connections if isinstance(one, BoundedProtocol)]

    def drain(self) -> None:
        """Shut connections down as a stopping server does: later responses say that their connection closes."""
        for connection in list(self._state.connections):
            connection.shutdown()

    async def until_seen(self, path: str) -> None:
        """Return when the application has been asked for `path`."""
        await eventually(lambda: path in self.app.seen)

    async def exchange(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """Send the pieces, and return everything received until the server closes the connection."""
        async with self.connected() as (reader, writer):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return await rest(reader)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes the connection. Raises TimeoutError when it does not."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read exactly one response that has a Content-Length."""
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))


def problem_of(raw: bytes, status: int = 4) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, header fields and document of the last response in `raw` whose status begins with `status`; it must be complete."""
    head, _, body = raw[raw.rindex(b"HTTP/1.1 %d" % status) :].partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    names = [field.split(": ", 1)[0] for field in fields]
    assert len(names) == len(set(names)), names
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(body) == int(headers["content-length"])
    return int(line.split(" ")[1]), headers, orjson.loads(body)


@asynccontextmanager
async def serving(
    protocol: type[BoundedProtocol] = Bounded,
    *,
    keep_alive_s: float = 600,
    gate: Gate | None = None,
    app: Application | None = None,
    websocket: Literal["none", "websockets-sansio", "wsproto"] = "none",
) -> AsyncIterator[HeadServer]:
    """Serve `app`, by default a new one, with `protocol`, behind `gate`."""
    app = app or Application()
    refusals: list[Refusal] = []
    observed: type[BoundedProtocol] = type("Observed", (protocol,), {"observe": staticmethod(refusals.append)})
    config = uvicorn.Config(
        app if gate is None else Admission(app, gate=gate, rejections=app),
        port=0,
        http=observed if gate is None else with_admission(observed, gate, app),
        ws=websocket,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # given to asyncio as it is
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await server.on_tick(0)  # which makes the Date
    one = HeadServer(app, refusals, server.server_state)
    one.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        app.gate.set()
        server.should_exit = True
        await server.shutdown()
