"""Features of the httpx transport only: HTTP/2 and proxies. Also redirects, which both transports follow."""

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamReset

from anabranch.core.exchange import Request
from anabranch.errors import ConnectError
from tests.support.leaks import no_leaks
from tests.support.rig import Rig


class Http2(asyncio.Protocol):
    """A tiny HTTP/2 service: answers every request with its headers as JSON, and `/hang` never."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen
        self.state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.seen.append("connection")
        self.state.initiate_connection()
        self.transport.write(self.state.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.state.receive_data(data):
            if isinstance(event, StreamReset):
                self.seen.append("reset")
            if not isinstance(event, RequestReceived):
                continue
            headers = cast("dict[str, str]", dict(cast("Any", event.headers)))
            self.seen.append(headers[":path"])
            if headers[":path"] != "/hang":
                self.state.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/json")])
                self.state.send_data(event.stream_id, json.dumps(headers).encode(), end_stream=True)
        self.transport.write(self.state.data_to_send())


@pytest.fixture
async def stock() -> AsyncIterator[Rig]:
    async with no_leaks():
        made = Rig("httpx")
        try:
            yield made
        finally:
            await made.aclose()


async def test_http2_shares_one_connection_and_survives_cancellation(stock: Rig, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("127.0.0.1").configure_cert(context)
    seen: list[str] = []
    server = await asyncio.get_running_loop().create_server(lambda: Http2(seen), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    caller = stock.caller(url, http2=True, tls={"ca": str(tmp_path / "ca.pem")})
    headers = json.loads((await caller.ask("/a%2Fb?x=1", extra=((b"x-extra", b"1"),))).body)
    assert headers[":path"] == "/a%2Fb?x=1"
    assert headers[":authority"] == url.removeprefix("https://")
    assert headers["x-extra"] == "1"
    await asyncio.gather(*(caller.ask("/x") for _ in range(20)))
    hanging = asyncio.create_task(caller.ask("/hang"))
    while "/hang" not in seen:
        await asyncio.sleep(0.001)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert (await caller.ask("/after")).status == 200
    assert seen.count("connection") == 1
    await caller.transport.aclose()
    server.close()


async def test_proxy_receives_the_absolute_url(stock: Rig) -> None:
    proxy = await stock.serve({"*": {"echo": True}})
    caller = stock.caller("http://service.invalid:8080/base", proxy=proxy.url)
    seen = json.loads((await caller.ask("/x?q=%20")).body)
    assert seen["target"] == "http://service.invalid:8080/base/x?q=%20"
    assert seen["headers"]["host"] == "service.invalid:8080"


class Tunnels(asyncio.Protocol):
    """A proxy that opens a tunnel to this machine, whatever the name is. `heads`: what it was sent before. `refuses`: with 407."""

    def __init__(self, heads: list[bytes], *, refuses: bool = False) -> None:
        self.heads, self.refuses = heads, refuses
        self.peer: asyncio.Transport | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.write(data)
            return
        self.heads.append(data)
        if self.refuses:
            self.transport.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        port = int(data.split()[1].rpartition(b":")[2])
        task = asyncio.get_running_loop().create_task(self._open(port))
        self.tasks.add(task)

    async def _open(self, port: int) -> None:
        behind = self

        class Back(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                behind.transport.write(data)

        self.peer, _ = await asyncio.get_running_loop().create_connection(Back, "127.0.0.1", port)
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None:
            self.peer.close()


CREDENTIALS = {"username": "me", "password": "gehe:im ä"}
AUTHORIZATION = "Basic " + b64encode("me:gehe:im ä".encode()).decode()


async def test_proxy_of_an_http_address_gets_the_credentials_and_the_client_cannot_send_others(stock: Rig) -> None:
    proxy = await stock.serve({"*": {"echo": True}})
    caller = stock.caller("http://service.invalid:8080", proxy={"url": proxy.url, **CREDENTIALS})
    seen = json.loads((await caller.ask("/x")).body)
    assert seen["target"] == "http://service.invalid:8080/x"
    assert seen["headers"]["proxy-authorization"] == AUTHORIZATION


async def test_https_address_is_reached_by_a_tunnel_that_alone_gets_the_credentials(stock: Rig, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    authority.issue_cert("service.invalid").configure_cert(context)
    heads: list[bytes] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http2([]), "127.0.0.1", 0, ssl=context)
    tunnels = await loop.create_server(lambda: Tunnels(heads), "127.0.0.1", 0)
    port, proxy = server.sockets[0].getsockname()[1], f"http://127.0.0.1:{tunnels.sockets[0].getsockname()[1]}"
    caller = stock.caller(
        f"https://service.invalid:{port}", http2=True, tls={"ca": str(tmp_path / "ca.pem")}, proxy={"url": proxy, **CREDENTIALS}
    )
    headers = json.loads((await caller.transport.exchange(Request("GET", "/x", host=b"api.example"), caller.address, loop.time() + 5)).body)
    assert (headers[":authority"], headers[":path"]) == ("api.example", "/x")
    assert "proxy-authorization" not in headers
    assert heads[0].startswith(f"CONNECT service.invalid:{port} HTTP/1.1\r\n".encode())
    assert f"Proxy-Authorization: {AUTHORIZATION}\r\n".encode() in heads[0]
    assert len(heads) == 1
    await caller.transport.aclose()
    server.close()
    tunnels.close()


async def test_proxy_that_refuses_is_a_connect_error_without_the_password(stock: Rig) -> None:
    heads: list[bytes] = []
    tunnels = await asyncio.get_running_loop().create_server(lambda: Tunnels(heads, refuses=True), "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{tunnels.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectError, match="the proxy refused to connect to the service") as caught:
        await stock.caller("https://service.invalid", proxy={"url": proxy, **CREDENTIALS}).ask("/x")
    assert "geheim" not in str(caught.value)
    tunnels.close()


async def test_proxies_of_the_environment_are_not_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    upstream, caller = await rig.both({"*": {"echo": True}})
    assert json.loads((await caller.ask("/x")).body)["target"] == "/x"
    assert len(upstream.hits) == 1


async def test_proxy_is_used_whatever_the_environment_excepts(stock: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    proxy = await stock.serve({"*": {"echo": True}})
    assert json.loads((await stock.caller("http://127.0.0.1:9", proxy=proxy.url).ask("/x")).body)["target"] == "http://127.0.0.1:9/x"


async def test_redirect_is_followed_on_the_same_connection(rig: Rig) -> None:
    upstream = await rig.serve({"/base/old": {"status": 301, "headers": {"location": "/new?x=1"}, "body": "moved"}, "/new": {"echo": True}})
    caller = rig.caller(upstream.url + "/base", follow_redirects=1)
    assert json.loads((await caller.ask("/old")).body)["target"] == "/new?x=1"
    assert [hit.target for hit in upstream.hits] == ["/base/old", "/new?x=1"]
