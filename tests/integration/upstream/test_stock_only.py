"""Features of the httpx transport only: HTTP/2 and proxies. Also redirects, which both transports follow."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamReset

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


async def test_redirect_is_followed_on_the_same_connection(rig: Rig) -> None:
    upstream = await rig.serve({"/base/old": {"status": 301, "headers": {"location": "/new?x=1"}, "body": "moved"}, "/new": {"echo": True}})
    caller = rig.caller(upstream.url + "/base", follow_redirects=1)
    assert json.loads((await caller.ask("/old")).body)["target"] == "/new?x=1"
    assert [hit.target for hit in upstream.hits] == ["/base/old", "/new?x=1"]
