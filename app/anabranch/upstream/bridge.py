"""Adapts a transport to `httpx.AsyncBaseTransport`, so that `httpx.AsyncClient(transport=Bridge(wire))` uses our connections.

For hooks, routers in Python and tests. The engine does not use it.
"""

import asyncio
from typing import Final

import httpx

from anabranch.core.exchange import Address, HeaderBlock, Request
from anabranch.errors import ConnectError, ConnectionLost, ConnectTimeout, ProtocolError, ResponseTooLarge, UpstreamError, UpstreamTimeout
from anabranch.upstream.seam import Transport

# Request fields that the transport writes itself.
_OURS: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})

# Response fields that would be wrong, because the body is already decoded.
_DROPPED: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})

# Most specific first.
_TO_HTTPX: Final[tuple[tuple[type[UpstreamError], type[httpx.TransportError]], ...]] = (
    (ConnectTimeout, httpx.ConnectTimeout),
    (ConnectError, httpx.ConnectError),
    (UpstreamTimeout, httpx.ReadTimeout),
    (ConnectionLost, httpx.ReadError),
    (ProtocolError, httpx.RemoteProtocolError),
    (ResponseTooLarge, httpx.RemoteProtocolError),
    (UpstreamError, httpx.TransportError),
)

# Deadline if the caller sets no timeout: an exchange needs one.
_NO_LIMIT_S: Final = 24 * 3600.0


class Bridge(httpx.AsyncBaseTransport):
    """An httpx transport around `inner`. Closes `inner` when it is closed.

    Responses are complete: the body is read and its content codings are decoded before the response is returned. The request's `timeout`
    extension becomes one deadline, the sum of its connect, write and read parts (a day if any of them is not set). The Host field is
    always the URL's.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            address = Address.parse(str(request.url.copy_with(raw_path=b"/", fragment=None, userinfo=b"")))
        except ValueError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from error
        body = await request.aread()
        sized = "content-length" in request.headers or "transfer-encoding" in request.headers
        outgoing = Request(
            method=request.method,
            target=request.url.raw_path.decode("ascii"),
            headers=HeaderBlock.of([(name, value) for name, value in request.headers.raw if name.lower() not in _OURS]),
            body=body if body or sized else None,
        )
        try:
            answer = await self._inner.exchange(outgoing, address, _deadline(request))
        except UpstreamError as error:
            kind = next(to for origin, to in _TO_HTTPX if isinstance(error, origin))
            raise kind(error.detail, request=request) from error
        headers = [(name, value) for name, value in answer.headers if name not in _DROPPED]
        return httpx.Response(answer.status, headers=headers, content=answer.body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _deadline(request: httpx.Request) -> float:
    timeouts = request.extensions.get("timeout", {})
    parts = [timeouts.get(name) for name in ("connect", "write", "read")]
    limit = _NO_LIMIT_S if any(part is None for part in parts) else sum(parts)
    return asyncio.get_running_loop().time() + limit
