"""A scripted upstream and the transport under test that calls it, opened and closed together."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import Any

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.open import open_transport
from anabranch.upstream.redirect import Redirecting
from anabranch.upstream.seam import StreamTransport, Transport
from anabranch.upstream.stock import HTTPXTransport, StockPool
from anabranch.upstream.wire import WireTransport
from tests.support.documents import upstream_plan


class Caller:
    """A transport with an address: `ask` makes one exchange. Deadlines are relative here (`within_s`)."""

    def __init__(self, transport: StreamTransport, address: Address) -> None:
        self.transport = transport
        self.address = address

    async def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        within_s: float = 10.0,
    ) -> Answer:
        request = Request(method=method, target=target, headers=HeaderBlock.of(headers or []), extra=extra, body=body)
        return await self.transport.exchange(request, self.address, asyncio.get_running_loop().time() + within_s)

    @property
    def connections(self) -> int:
        """The number of open connections of the transport."""
        inner: Transport = self.transport
        while isinstance(inner, Redirecting):
            inner = inner.inner
        if isinstance(inner, WireTransport):
            return inner.connections
        assert isinstance(inner, HTTPXTransport)
        assert isinstance(inner._inner, StockPool)
        return inner._inner.connections


class Rig:
    """`kind`: `wire` or `httpx`. `aclose` closes everything that it opened."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._stack = AsyncExitStack()

    @property
    def is_wire(self) -> bool:
        return self.kind == "wire"

    async def serve(self, spec: dict[str, Any], *, ssl: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> ScriptedUpstream:
        return await self._stack.enter_async_context(ScriptedUpstream(spec, ssl=ssl, host=host))

    def caller(self, url: str, **settings: Any) -> Caller:
        """A transport for `url`. `settings`: as in the document. A connection may take long on a busy machine, unless the test is about that."""
        upstream = upstream_plan(**{"url": url, "transport": self.kind, "connect_timeout": "10s", **settings})
        transport = open_transport(upstream)
        self._stack.push_async_callback(transport.aclose)
        return Caller(transport, upstream.addresses[0])

    async def both(self, spec: dict[str, Any], **settings: Any) -> tuple[ScriptedUpstream, Caller]:
        upstream = await self.serve(spec)
        return upstream, self.caller(upstream.url, **settings)

    async def aclose(self) -> None:
        await self._stack.aclose()
