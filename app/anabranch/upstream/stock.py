"""The `httpx` transport: HTTP/2 and proxies by a stock connection pool.

`StockPool` wraps httpcore2's connection pool as an `httpx.AsyncBaseTransport` (httpx's own pool leaks a slot whenever a waiting request is
cancelled: encode/httpcore #1093). `HTTPXTransport` makes a transport of ours from any `httpx.AsyncBaseTransport`: it builds httpx's request,
enforces the deadline and the size limit, decodes content codings with our own decoder, and translates the exceptions. A mock router can
replace the pool.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from types import TracebackType
from typing import Final, Self

import httpcore2
import httpx

from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    ProtocolError,
    ResolveError,
    ResponseTooLarge,
    UpstreamError,
    UpstreamTimeout,
)
from anabranch.plan.upstream import DEFAULT_POOL, ConnectionPoolPlan
from anabranch.upstream.backend import Backend
from anabranch.upstream.encoding import decode_soon
from anabranch.upstream.names import Names
from anabranch.upstream.tls import tls_error
from anabranch.upstream.wire import IDEMPOTENT

# Most specific first.
_FROM_HTTPCORE: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (httpcore2.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx.ReadTimeout),
    (httpcore2.WriteTimeout, httpx.WriteTimeout),
    (httpcore2.PoolTimeout, httpx.PoolTimeout),
    (httpcore2.TimeoutException, httpx.TimeoutException),
    (httpcore2.ConnectError, httpx.ConnectError),
    (httpcore2.ReadError, httpx.ReadError),
    (httpcore2.WriteError, httpx.WriteError),
    (httpcore2.NetworkError, httpx.NetworkError),
    (httpcore2.ProxyError, httpx.ProxyError),
    (httpcore2.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore2.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore2.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore2.ProtocolError, httpx.ProtocolError),
)
_HTTPCORE_ERRORS: Final = tuple(kind for kind, _ in _FROM_HTTPCORE)

# Exceptions of httpx and ours: (httpx's class, our class, `may_be_processed`, detail). Most specific first. `_translate` handles those whose
# cause matters.
_FROM_HTTPX: Final[tuple[tuple[type[Exception], type[UpstreamError], bool, str], ...]] = (
    (httpx.ConnectTimeout, ConnectTimeout, False, "the service did not accept a connection in time"),
    (httpx.PoolTimeout, ConnectTimeout, False, "timed out waiting for a free connection to the service"),
    (httpx.TimeoutException, UpstreamTimeout, True, "the service did not answer in time"),
    (httpx.ProxyError, ConnectError, False, "the proxy refused to connect to the service"),
    (httpx.UnsupportedProtocol, ProtocolError, False, "the transport does not support the scheme of the address"),
    (httpx.LocalProtocolError, ProtocolError, False, "the request is not valid HTTP"),
    (httpx.InvalidURL, ProtocolError, False, "the request's target is not valid"),
    (httpx.RemoteProtocolError, ProtocolError, True, "the service sent invalid HTTP"),
    (httpx.NetworkError, ConnectionLost, True, "the connection broke before the response was complete"),
    (httpx.HTTPError, ConnectionLost, True, "the exchange failed before the response was complete"),
    (httpx.StreamError, ConnectionLost, True, "the connection was closed before the response was complete"),
)
_HTTPX_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)

# OpenSSL raises these while it waits for the peer: they are in the context of every exception, but never the cause.
_NO_FAILURE: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)

# Messages of httpcore and h11 for a connection that ended too early; the exception's class does not show it.
_ENDED: Final = ("server disconnected", "peer closed connection", "connection terminated", "<connectionterminated")


class _Stream(httpx.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except _HTTPCORE_ERRORS as error:
            raise _to_httpx(error) from error

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


def _to_httpx(error: Exception) -> httpx.TransportError:
    kind = next(to for origin, to in _FROM_HTTPCORE if isinstance(error, origin))
    return kind(str(error))


class StockPool(httpx.AsyncBaseTransport):
    """httpcore2's connection pool as an httpx transport. Limits idle connections; the bulkhead limits those in use.

    `context`: share it only between pools with the same `http2`, since the pool sets its ALPN protocols. The setting `max_age_s` has no
    effect: the pool does not support it.
    """

    def __init__(
        self,
        *,
        pool: ConnectionPoolPlan = DEFAULT_POOL,
        context: ssl.SSLContext | None = None,
        http2: bool = False,
        proxy: str | None = None,
    ) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            proxy=httpcore2.Proxy(proxy) if proxy is not None else None,
            max_connections=None,
            max_keepalive_connections=pool.max_idle,
            keepalive_expiry=pool.idle_timeout_s,
            http1=True,
            http2=http2,
            network_backend=Backend(Names()),
        )

    @property
    def connections(self) -> int:
        """Number of connections of the pool, including idle ones."""
        return len(self._pool.connections)

    @property
    def idle_connections(self) -> int:
        return sum(connection.is_idle() for connection in self._pool.connections)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        inner = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            response = await self._pool.handle_async_request(inner)
        except _HTTPCORE_ERRORS as error:
            raise _to_httpx(error) from error
        assert isinstance(response.stream, AsyncIterable)
        return httpx.Response(
            status_code=response.status, headers=response.headers, stream=_Stream(response.stream), extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Trace:
    """The progress of one request, from the pool's trace events. `has_events` stays False if the transport emits none.

    `is_fresh`: on a new connection. `is_sent`: sending has started. `has_head`: the response's head has arrived.
    """

    __slots__ = ("has_events", "has_head", "is_fresh", "is_sent")

    def __init__(self) -> None:
        self.has_events = False
        self.has_head = False
        self.is_fresh = False
        self.is_sent = False

    async def __call__(self, event: str, info: object) -> None:
        self.has_events = True
        if event.endswith("connect_tcp.started"):
            self.is_fresh = True
        elif event.endswith("send_request_headers.started"):
            self.is_sent = True


class HTTPXTransport:
    """A `seam.Transport` over any `httpx.AsyncBaseTransport`; also an async context manager. Closes the inner transport when it is closed.

    `max_response`: maximum bytes of a body, before and after content decoding. `server_name`: for SNI and verification instead of the host.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *,
        connect_timeout_s: float = 1.0,
        max_response: int = 10 * 1024 * 1024,
        server_name: str | None = None,
    ) -> None:
        self._inner = inner
        self._timeouts = {"connect": connect_timeout_s, "read": None, "write": None, "pool": None}
        self._max_response = max_response
        self._server_name = server_name
        self._in_flight: set[asyncio.Timeout] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def inner(self) -> httpx.AsyncBaseTransport:
        """The wrapped transport."""
        return self._inner

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """See `seam.Transport`."""
        if asyncio.get_running_loop().time() >= deadline:
            raise UpstreamTimeout("the deadline passed before the request was sent")
        trace = _Trace()
        try:
            return await self._once(request, address, deadline, trace)
        except ConnectionLost:
            # RFC 9112 section 9.3.1. Only if trace events show that a kept-alive connection broke before the response's head arrived.
            is_stale = trace.has_events and trace.is_sent and not trace.is_fresh and not trace.has_head
            if not is_stale or request.method not in IDEMPOTENT or self._is_closed:
                raise
        try:
            return await self._once(request, address, deadline, _Trace())
        except UpstreamError as error:
            error.may_be_processed = True  # by the first try
            raise

    async def aclose(self) -> None:
        """See `seam.Transport`."""
        self._is_closed = True
        now = asyncio.get_running_loop().time()
        for scope in self._in_flight:
            scope.reschedule(now)
        await self._inner.aclose()

    async def _once(self, request: Request, address: Address, deadline: float, trace: _Trace) -> Answer:
        if self._is_closed:
            raise ConnectionLost("the gateway has closed its connections to the service")
        outgoing = self._request(request, address, trace)
        scope = asyncio.timeout_at(deadline)
        self._in_flight.add(scope)
        try:
            async with scope:
                response = await self._inner.handle_async_request(outgoing)
                try:
                    body = await self._read(request, response, trace)
                finally:
                    await response.aclose()
        except TimeoutError:
            may_be_processed = trace.is_sent or not trace.has_events
            if self._is_closed:
                raise ConnectionLost(
                    "the gateway closed the connection before the response was complete", may_be_processed=may_be_processed
                ) from None
            raise UpstreamTimeout("the service did not answer in time", may_be_processed=may_be_processed) from None
        except _HTTPX_ERRORS as error:
            raise _translate(error) from error
        except OSError as error:
            raise ConnectionLost("the connection broke before the response was complete", may_be_processed=True) from error
        finally:
            self._in_flight.discard(scope)
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        if body:
            coding = b",".join(value for name, value in headers if name == b"content-encoding")
            if coding:
                body = await decode_soon(body, coding, self._max_response)
        return Answer(response.status_code, headers, body)

    def _request(self, request: Request, address: Address, trace: _Trace) -> httpx.Request:
        target = (address.base_path + request.target).encode("ascii")
        extensions = {
            "timeout": self._timeouts,
            "trace": trace,
            # Keeps the exact bytes; httpx's URL would normalise them.
            "target": target,
        }
        if self._server_name is not None or address.ip is not None:
            extensions["sni_hostname"] = self._server_name or address.host
        return httpx.Request(
            request.method,
            httpx.URL(scheme=address.scheme, host=address.ip or address.host, port=address.port, raw_path=target),
            headers=[(b"host", address.authority.encode("ascii")), *request.headers.pairs, *request.extra],
            content=request.body,
            extensions=extensions,
        )

    async def _read(self, request: Request, response: httpx.Response, trace: _Trace) -> bytes:
        limit = self._max_response
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > limit and request.method != "HEAD" and response.status_code != 304:
            raise ResponseTooLarge(f"the response is larger than {limit} bytes", may_be_processed=True)
        trace.has_head = True
        if response.status_code == 101:
            raise ProtocolError("the service switched to another protocol, which was not requested", may_be_processed=True)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        parts: list[bytes] = []
        size = 0
        async for part in response.stream:
            size += len(part)
            if size > limit:
                raise ResponseTooLarge(f"the response is larger than {limit} bytes", may_be_processed=True)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _translate(error: Exception) -> UpstreamError:
    if isinstance(error, httpx.ConnectError) and not isinstance(error, httpx.ConnectTimeout):
        return _connect_error(error)
    if isinstance(error, httpx.RemoteProtocolError) and str(error).lower().startswith(_ENDED):
        return ConnectionLost("the service closed the connection before its response was complete", may_be_processed=True)
    if isinstance(error, httpx.NetworkError):
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, _NO_FAILURE):
                # TLS 1.3: the service reports a rejected client certificate only after our first bytes.
                return tls_error(cause, may_be_processed=True)
    for origin, kind, may_be_processed, detail in _FROM_HTTPX:
        if isinstance(error, origin):
            return kind(detail, may_be_processed=may_be_processed)
    raise error  # not an exception of httpx: the table contains every root of its tree


def _connect_error(error: BaseException) -> ConnectError:
    """The error for httpx's ConnectError, which covers name resolution, refused connections and failed handshakes: decided by its causes."""
    is_refused = False
    for cause in _causes(error):
        if isinstance(cause, ConnectError):
            return type(cause)(cause.detail)  # from our own backend
        if isinstance(cause, socket.gaierror):
            return ResolveError("the service's host name has no address")
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _NO_FAILURE):
            return tls_error(cause)
        is_refused = is_refused or isinstance(cause, ConnectionRefusedError)
    return ConnectError("the service refused the connection" if is_refused else "the service could not be reached")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes; at most ten, so that a cycle ends."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
