"""An offer of WebSocket is taken up where uvicorn is configured for it, and only where it is a whole offer (RFC 6455 section 4.2.1)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from anabranch.guard.concurrency import Gate
from tests.support.eventually import eventually
from tests.support.head_server import PATIENCE_S, Application, HeadServer, answer, serving

KEYS = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
OFFER = b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + KEYS
HOST = b"Host: a.test\r\n"


class Echo(Application):
    """Sends back what it receives, and refuses `/none`."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        self.scopes.append(scope)
        await receive()
        if scope["path"] == "/none":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        self.gone.append(scope["path"])


@pytest.fixture
async def server() -> AsyncIterator[HeadServer]:
    async with serving(app=Echo(), websocket="websockets-sansio") as found:
        yield found


async def test_connection_goes_on_with_websocket(server: HeadServer) -> None:
    async with asyncio.timeout(PATIENCE_S), connect(f"ws://127.0.0.1:{server.port}/echo?a=1") as client:
        for text in ("one", "two" * 50_000):
            await client.send(text)
            assert await client.recv() == text
    assert isinstance(server.app, Echo)
    (scope,) = server.app.scopes
    assert (scope["path"], scope["query_string"], scope["scheme"]) == ("/echo", b"a=1", "ws")
    await eventually(lambda: server.app.gone == ["/echo"])
    await eventually(lambda: not server.open_connections)
    assert server.refusals == []


async def test_connection_that_is_refused_by_the_application(server: HeadServer) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with asyncio.timeout(PATIENCE_S), connect(f"ws://127.0.0.1:{server.port}/none"):
            pass
    await eventually(lambda: not server.open_connections)


async def test_offer_behind_other_requests_waits_for_its_turn(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(b"GET /gated HTTP/1.1\r\n" + HOST + b"\r\nGET /echo HTTP/1.1\r\n" + HOST + OFFER + b"\r\n")
        await server.until_seen("/gated")
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /x HTTP/1.1\r\n" + HOST + OFFER + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + OFFER + b"Content-Length: 5\r\n\r\nhello",
        b"GET /x HTTP/1.1\r\n" + HOST + OFFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n" + KEYS + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + b"Upgrade: websocket2\r\nConnection: upgrade\r\n" + KEYS + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + OFFER + b"Connection: close\r\n\r\n",
        b"GET /x HTTP/1.0\r\n" + HOST + OFFER + b"\r\n",
    ],
)
async def test_what_is_no_whole_offer_is_an_ordinary_request(server: HeadServer, raw: bytes) -> None:
    async with server.connected() as (reader, writer):
        writer.write(raw)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_drain_closes_websockets(server: HeadServer) -> None:
    async with asyncio.timeout(PATIENCE_S), connect(f"ws://127.0.0.1:{server.port}/echo") as client:
        server.drain()
        with pytest.raises(ConnectionClosedError, match="1012"):
            await client.recv()


async def test_offer_at_the_concurrency_limit_is_rejected_like_a_request() -> None:
    gate = Gate(limit=1, waiting=0, wait_s=600)
    async with serving(app=Echo(), websocket="websockets-sansio", gate=gate) as server, server.connected() as (_, writer):
        writer.write(b"GET /gated HTTP/1.1\r\n" + HOST + b"\r\n")
        await server.until_seen("/gated")
        with pytest.raises(InvalidStatus, match="503"):
            async with asyncio.timeout(PATIENCE_S), connect(f"ws://127.0.0.1:{server.port}/echo"):
                pass
        server.app.gate.set()
        await eventually(lambda: not gate.is_full)
        async with asyncio.timeout(PATIENCE_S), connect(f"ws://127.0.0.1:{server.port}/echo") as client:
            assert gate.is_full
            await client.send("one")
            assert await client.recv() == "one"
        await eventually(lambda: not gate.is_full)
