"""Responses of applications that fail in the middle, to clients that stop reading, stop sending or go."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from anabranch.edge.admission import Admission
from anabranch.guard.concurrency import Gate
from anabranch.server.admission_protocol import with_admission
from anabranch.server.http1.connection import BoundedProtocol
from anabranch.testing.serving import LOOPBACK, serve
from tests.support.eventually import eventually
from tests.support.head_server import Application, Bounded, rest, serving

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
PATIENCE_S = 30.0


def application(handle: Handler) -> Handler:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await handle(scope, receive, send)
            return
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    return app


def start(*fields: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def talk(port: int, sent: bytes, *, half_close: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(sent)
    if half_close:
        writer.write_eof()
    try:
        return await rest(reader)
    finally:
        writer.close()


GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_head_that_is_refused_leaves_nothing_behind_for_the_next_one(status: int) -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/second":
            await send(start((b"content-length", b"2")))
            await send(part(b"ok"))
            return
        with pytest.raises(RuntimeError):
            await send(start((b"x-a", b"a\nb"), status=status))
        await send(start((b"content-length", b"5"), status=500))
        await send(part(b"error"))

    async with serve(application(handle)) as port:
        received = await talk(port, GET % b"first" + LAST % b"second")
    first, second = received.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"500 ")
    assert first.partition(b"\r\n\r\n")[2] == b"error"
    assert second.partition(b"\r\n\r\n")[2] == b"ok"


async def test_body_that_is_refused_leaves_the_length_as_it_was() -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-length", b"5")))
        with pytest.raises(RuntimeError, match="not as long"):
            await send(part(b"123456"))
        with pytest.raises(RuntimeError, match="not as long"):
            await send(part(b""))
        await send(part(b"12345"))

    async with serve(application(handle)) as port:
        received = await talk(port, LAST % b"")
    assert received.endswith(b"\r\n\r\n12345")


@pytest.mark.parametrize(("version", "half_close"), [(b"1.0", False), (b"1.1", True)])
async def test_response_that_breaks_off_ends_with_a_reset(version: bytes, half_close: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A clean end would make it look complete: without a length (HTTP/1.0), or behind the zero that tells whether the client is there."""
    is_read = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"some", more=True))
        await is_read.wait()
        raise ValueError("the service broke")

    async with serve(application(handle)) as port:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"some\r\n0" if half_close else b"some")
            is_read.set()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
    assert "the service broke" in caplog.text


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_system_probes_a_half_closed_connection(version: bytes) -> None:
    """While the application is silent, nothing else tells that its client has gone."""
    probed: list[bool] = []
    is_over = asyncio.Event()

    class Watched(BoundedProtocol):
        def eof_received(self) -> bool:
            kept = super().eof_received()
            client = self._transport.get_extra_info("socket")
            probed.append(bool(client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
            return kept

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"data: 1\n\n", more=True))
        await is_over.wait()
        await send(part(b""))

    async with serve(application(handle), Watched) as port:
        talking = asyncio.create_task(talk(port, b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version, half_close=True))
        await eventually(lambda: bool(probed))
        is_over.set()
        assert b"data: 1" in await talking
    assert probed == [True]


def connect_without_reading(port: int, sent: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((LOOPBACK, port))
    client.sendall(sent)
    return client


@pytest.mark.parametrize("size", [8_000_000, 3_000_000])
async def test_client_that_reads_nothing_holds_its_place_only_for_a_while(size: int) -> None:
    gate = Gate(limit=1, waiting=5, wait_s=PATIENCE_S)

    class Impatient(BoundedProtocol):
        stall_s = 0.2

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"x" * size if scope["path"] == "/big" else b"ok"
        await send(start((b"content-length", b"%d" % len(body))))
        await send(part(body))

    admission = Admission(application(handle), gate=gate, rejections=Application())
    async with serve(admission, with_admission(Impatient, gate, Application())) as port:
        with connect_without_reading(port, GET % b"big" + GET % b"big"):
            await eventually(lambda: gate.bulkhead.in_use == 1)
            assert (await talk(port, LAST % b"small")).endswith(b"ok")
        await eventually(lambda: gate.bulkhead.in_use == 0)


async def test_client_that_reads_slowly_is_served_to_the_end() -> None:
    class Impatient(BoundedProtocol):
        stall_s = 0.2

    body = b"x" * 6_000_000

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-length", b"%d" % len(body))))
        await send(part(body))

    async with serve(application(handle), Impatient) as port:
        with connect_without_reading(port, LAST % b"") as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            received, until = bytearray(), loop.time() + 1.0
            async with asyncio.timeout(PATIENCE_S):
                while found := await loop.sock_recv(client, 65536):
                    received += found
                    if loop.time() < until:
                        await asyncio.sleep(0.02)
    assert len(received.partition(b"\r\n\r\n")[2]) == len(body)


async def test_drain_leaves_a_refused_client_the_time_to_read() -> None:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-length", b"2"), (b"connection", b"close"), status=413))
        await send(part(b"no"))

    connections: list[BoundedProtocol] = []

    class Kept(BoundedProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connections.append(self)

    async with serve(application(handle), Kept) as port:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\nno")).startswith(b"HTTP/1.1 413 ")
            connections[0].shutdown()
            for _ in range(10):
                writer.write(b"x" * 10_000)
                await writer.drain()
            assert await reader.read() == b""
        writer.close()


async def test_question_about_the_server_waits_for_no_body() -> None:
    async with serving(Bounded) as server, server.connected() as (reader, writer):
        writer.write(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")


async def test_question_about_the_server_takes_no_place() -> None:
    gate = Gate(limit=1, waiting=5, wait_s=PATIENCE_S)
    release = asyncio.Event()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await release.wait()
        await send(start((b"content-length", b"2")))
        await send(part(b"ok"))

    admission = Admission(application(handle), gate=gate, rejections=Application())
    async with serve(admission, with_admission(BoundedProtocol, gate, Application())) as port:
        slow = asyncio.create_task(talk(port, LAST % b"slow"))
        await eventually(lambda: gate.bulkhead.in_use == 1)
        asked = [
            asyncio.create_task(talk(port, b"OPTIONS %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % target))
            for target in (b"*", b"http://h")
        ]
        await eventually(lambda: gate.bulkhead.in_use == 1)
        release.set()
        assert all(answer.startswith(b"HTTP/1.1 204 ") for answer in await asyncio.gather(*asked))
        assert (await slow).endswith(b"ok")
        await eventually(lambda: gate.bulkhead.in_use == 0)
        assert (await talk(port, LAST % b"after")).endswith(b"ok")
