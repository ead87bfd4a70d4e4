"""A raw HTTP/1.1 service that does exactly what its script says, faults included, and keeps a record of what came in.

Real sockets on loopback, asyncio only. What one request meets is a `Behaviour`; this module accepts connections, parses requests (kept alive,
content-length and chunked bodies) and plays behaviours.
"""

import asyncio
import os
import re
import socket
import ssl as ssl_module
import struct
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Any, ClassVar, Final, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from anabranch.config.base import Model
from anabranch.testing.scripted.behaviour import Behaviour, Drip, Hit
from anabranch.testing.scripted.record import Answers, Record

_NOT_FOUND: Final = Behaviour.model_validate({"status": 404, "json": {"error": "the script has no such route"}})
_RST: Final = struct.pack("ii", 1, 0)
_ROUTE: Final = r"^([A-Z]+ )?(/[^ ]*|\*)$"


def _as_list(behaviours: Any) -> Any:
    return behaviours if isinstance(behaviours, list) else [behaviours]


def _route(name: str) -> str:
    if re.fullmatch(_ROUTE, name) is None:
        raise ValueError("a route is `/path`, `METHOD /path`, or `*` for everything else")
    return name


Behaviours = Annotated[list[Behaviour], Field(min_length=1), BeforeValidator(_as_list)]


class Script(Model):
    """What a scripted service does. The routes may stand alone, without the key `routes`."""

    shorthand: ClassVar[str | None] = "routes"
    routes: dict[Annotated[str, AfterValidator(_route), WithJsonSchema({"type": "string", "pattern": _ROUTE})], Behaviours] = {}
    """What happens at `/path`, `METHOD /path`, `/path/{parameter}`, or `*` for everything else. A list is for successive requests; its last
    item is for all further ones. The exact path wins over one with parameters, and both over `*`. Without a route the answer is 404."""
    close_after: int | None = Field(None, ge=1)
    """Close each connection after so many answers, without saying so."""
    close_idle_s: float | None = Field(None, ge=0)
    """Close a kept-alive connection that has been idle for so many seconds, without saying so."""
    reset_on_accept: bool = False
    """Reset every connection at once."""
    down: bool = False
    """Refuse every connection."""

    @model_validator(mode="before")
    @classmethod
    def _with_routes(cls, value: Any) -> Any:
        return with_routes(value) if isinstance(value, Mapping) else value


def with_routes(script: Mapping[str, Any]) -> Mapping[str, Any]:
    """The script with its routes under the key `routes`."""
    is_bare = "routes" not in script and any(key == "*" or key.startswith("/") or " " in key for key in script)
    return {"routes": script} if is_bare else script


class ScriptedUpstream(Record):
    """An async context manager that serves a script on `host`, port 0.

    `script`: a mapping with the keys of `Script`, or its routes alone:

        {"GET /users/{id}": {"json": {"name": "Ann"}}, "/any-method": [{"status": 503}, {"json": 1}], "*": {"status": 500}}

    Record: `hits` (in order of arrival), `hits_of(path)`, `counts` (by path), `accepted` and `open` connections, `concurrent` and
    `max_concurrent` requests, `aborted` (requests whose client disconnected before the response was complete). `until(condition)` waits
    for a condition on the record.

    Behaviours that wait for other upstreams or for the client (`once_...`) need `join`. Raises ValueError for a wrong script.
    """

    def __init__(
        self, script: Mapping[str, Any] | Script | None = None, *, ssl: ssl_module.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__()
        self._script = script if isinstance(script, Script) else Script.model_validate(dict(script or {}))
        self.hits: list[Hit] = []
        self.counts: Counter[str] = Counter()
        self.accepted = 0
        self.concurrent = 0
        self.max_concurrent = 0
        self.aborted = 0
        self.port = 0
        self.host = host
        self._ssl = ssl
        self._routes = {route: list(behaviours) for route, behaviours in self._script.routes.items()}
        self._used: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._holder: socket.socket | None = None
        self._connections: set[_Connection] = set()
        self._peers: Mapping[str, ScriptedUpstream] = {}
        self._answers = Answers()

    def on(self, route: str, behaviour: Any) -> None:
        """Set or replace what happens at `route`; a list is for successive hits."""
        self._routes[route] = Script.model_validate({"routes": {route: behaviour}}).routes[route]
        self._used[route] = 0

    @property
    def close_after(self) -> int | None:
        return self._script.close_after

    @property
    def close_idle_s(self) -> float | None:
        return self._script.close_idle_s

    @property
    def reset_on_accept(self) -> bool:
        return self._script.reset_on_accept

    @property
    def is_echo(self) -> bool:
        """Whether an answer may show the request that it answers."""
        return any(behaviour.echo for behaviours in self._routes.values() for behaviour in behaviours)

    @property
    def url(self) -> str:
        """`http(s)://host:port`, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}"

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def hits_of(self, path: str, method: str | None = None) -> list[Hit]:
        return [hit for hit in self.hits if hit.path == path and method in {None, hit.method}]

    def join(self, peers: "Mapping[str, ScriptedUpstream]", answers: Answers) -> None:
        """Set the upstreams that `once_hit` and `once_aborted` refer to (this one included), and the client whose answers `once_answered`
        counts.

        Raises ValueError for a name that is not among `peers`.
        """
        waited_for = {name for behaviours in self._routes.values() for behaviour in behaviours for name in behaviour.waits_for}
        if unknown := waited_for - set(peers):
            raise ValueError(f"its answers wait for upstreams that do not exist: {', '.join(sorted(unknown))}")
        self._peers = peers
        self._answers = answers

    async def start(self, port: int = 0) -> Self:
        """Listen. `port`: 0 for any free one; a number to come back at the same place after `stop`."""
        if self._script.down:
            self._holder = _bound(self.host, port)
            self.port = self._holder.getsockname()[1]
            return self
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.host, port, ssl=self._ssl, backlog=4096, reuse_port=True)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self, *, keeps_port: bool = False) -> None:
        """Stop listening, drop every connection and wait until all are closed. May be called twice. `keeps_port`: reserve the port until
        `start(port)`."""
        server, self._server = self._server, None
        if keeps_port:
            self._holder = self._holder or _bound(self.host, self.port)
        elif self._holder is not None:
            self._holder.close()
            self._holder = None
        if server is not None:
            server.close()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        self.drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.until(lambda upstream: upstream.open == 0)
        if server is not None:
            await server.wait_closed()

    def drop(self) -> None:
        """Abort every open connection, as a restart does."""
        for connection in list(self._connections):
            connection.abort()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def released(self, behaviour: Behaviour) -> None:
        """For the connections: wait until the conditions of `behaviour` are met."""
        for name, number in behaviour.once_hit.items():
            await self._peers[name].until(lambda peer, number=number: len(peer.hits) >= number, None)  # type: ignore[misc]
        for name, number in behaviour.once_aborted.items():
            await self._peers[name].until(lambda peer, number=number: peer.aborted >= number, None)  # type: ignore[misc]
        if behaviour.once_answered:
            await self._answers.until(lambda answers: answers.count >= behaviour.once_answered, None)

    def match(self, method: str, path: str) -> tuple[Behaviour, dict[str, str]]:
        """For the connections: the behaviour for this request, and the path's parameters."""
        for route in (f"{method} {path}", path):
            if route in self._routes:
                return self._next(route), {}
        for route in self._routes:
            wanted, _, pattern = route.rpartition(" ")
            params = _parameters(pattern, path) if wanted in {"", method} and "{" in pattern else None
            if params is not None:
                return self._next(route), params
        for route in (f"{method} *", "*"):
            if route in self._routes:
                return self._next(route), {}
        return _NOT_FOUND, {}

    def _next(self, route: str) -> Behaviour:
        behaviours = self._routes[route]
        index = min(self._used[route], len(behaviours) - 1)
        self._used[route] += 1
        return behaviours[index]

    def add(self, connection: "_Connection") -> int:
        """For the connections: register an accepted one; returns its number."""
        self._connections.add(connection)
        self.accepted += 1
        self.changed()
        return self.accepted - 1

    def remove(self, connection: "_Connection") -> None:
        """For the connections: unregister a closed one."""
        self._connections.discard(connection)
        self.changed()


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.task: asyncio.Task[None] | None = None
        self._upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._eof = False
        self._is_answering = False
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._number = 0

    # ------------------------------------------------------------------------------------------------------- callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses
        self._number = self._upstream.add(self)
        if self._upstream.reset_on_accept:
            self._reset()
            return
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake.set()

    def eof_received(self) -> None:
        self._eof = True
        self._wake.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_answering:
            self._is_answering = False
            self._upstream.aborted += 1
        if self.task is not None:
            self.task.cancel()
        self._upstream.remove(self)

    def abort(self) -> None:
        self._is_answering = False
        if self._transport is not None:
            self._transport.abort()

    # --------------------------------------------------------------------------------------------------------- serving

    async def _serve(self) -> None:
        upstream, transport = self._upstream, self._transport
        assert transport is not None
        answered = 0
        try:
            while (head := await self._head(upstream.close_idle_s if answered else None)) is not None:
                keep = await self._one(head)
                answered += 1
                if not keep or answered == upstream.close_after:
                    break
        except (EOFError, ValueError):
            pass
        finally:
            transport.close()

    async def _one(self, head: bytes) -> bool:
        upstream = self._upstream
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
        behaviour, params = upstream.match(method, target.partition("?")[0])
        upstream.concurrent += 1
        upstream.max_concurrent = max(upstream.max_concurrent, upstream.concurrent)
        upstream.counts[target.partition("?")[0]] += 1
        self._is_answering = True
        try:
            if behaviour.reset == "request":
                upstream.hits.append(Hit(method=method, target=target, headers=headers, body=b"", connection=self._number, params=params))
                self._reset()
                return False
            body = b"" if behaviour.early else await self._body(dict(headers))
            hit = Hit(method=method, target=target, headers=headers, body=body, connection=self._number, params=params)
            upstream.hits.append(hit)
            upstream.changed()
            keep = await self._play(behaviour, hit)
        finally:
            self._is_answering = False
            upstream.concurrent -= 1
            upstream.changed()
        if behaviour.early and keep:
            await self._body(dict(headers))
        return keep and dict(headers).get("connection", "").lower() != "close"

    async def _play(self, behaviour: Behaviour, hit: Hit) -> bool:
        """Returns whether the connection stays open."""
        if behaviour.hang:
            await asyncio.get_running_loop().create_future()
        await self._upstream.released(behaviour)
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.reset == "answer":
            self._reset()
            return False
        head, body = behaviour.render(hit)
        cut = behaviour.truncate_after
        if behaviour.reset is not None:
            cut = behaviour.reset if isinstance(behaviour.reset, int) else 0
        await self._write(head + body[:cut], behaviour.drip)
        if behaviour.reset is not None:
            self._reset()
            return False
        return cut is None and not behaviour.ends_connection

    async def _write(self, data: bytes, drip: Drip | None) -> None:
        transport = self._transport
        assert transport is not None
        size = 64 * 1024 if drip is None else drip.bytes_
        for at in range(0, len(data), size):
            if drip is not None and at:
                await asyncio.sleep(drip.every_s)
            transport.write(data[at : at + size])
            await self._writable.wait()

    def _reset(self) -> None:
        transport = self._transport
        assert transport is not None
        self._is_answering = False
        # Through a second descriptor of the same socket, because uvloop's wrapper of the first has no setsockopt.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        transport.abort()

    # --------------------------------------------------------------------------------------------------------- reading

    async def _more(self) -> None:
        if self._eof:
            raise EOFError
        self._wake.clear()
        await self._wake.wait()

    async def _head(self, idle_s: float | None) -> bytes | None:
        """A request's head, or None when its first byte takes longer than `idle_s`."""
        try:
            async with asyncio.timeout(idle_s) as limit:
                while not self._buffer:
                    await self._more()
                limit.reschedule(None)
                while b"\r\n\r\n" not in self._buffer:
                    await self._more()
        except TimeoutError:
            return None
        end = self._buffer.index(b"\r\n\r\n")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            await self._more()
        return (await self._take(self._buffer.index(b"\r\n") + 2))[:-2]

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._take(int(headers.get("content-length", "0")))
        body = b""
        while size := int((await self._line()).split(b";")[0], 16):
            body += await self._take(size)
            await self._take(2)
        while await self._line():
            pass
        return body


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the same port as the listener. It never listens: it only reserves the port."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


def _parameters(pattern: str, path: str) -> dict[str, str] | None:
    wanted, given = pattern.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    params: dict[str, str] = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and want.endswith("}"):
            params[want[1:-1]] = have
        elif want != have:
            return None
    return params
