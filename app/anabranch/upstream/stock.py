"""The `httpx` transport: HTTP/2 and proxies by a stock connection pool.

`StockPool` wraps httpcore2's connection pool as an `httpx.AsyncBaseTransport` (httpx's own pool leaks a slot whenever a waiting request is
cancelled: encode/httpcore #1093). `HTTPXTransport` makes a transport of ours from any `httpx.AsyncBaseTransport`: it builds httpx's request,
enforces the deadline and the size limit, decodes content codings with our own decoder, and translates the exceptions. A mock router can
replace the pool.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpcore2
import httpx

from anabranch.core.exchange import Address, Answer, Request, StreamRule
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
from anabranch.plan.upstream import DEFAULT_POOL, ConnectionPoolPlan, ProxyPlan
from anabranch.upstream.backend import Backend
from anabranch.upstream.encoding import decode_soon
from anabranch.upstream.names import Names
from anabranch.upstream.stream import AnswerStream
from anabranch.upstream.tls import tls_error
from anabranch.upstream.wire import IDEMPOTENT

T = TypeVar("T")

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

# RFC 9113 section 7.
_REFUSED_STREAM: Final = 0x7
# RFC 9113 section 8.2.1.
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_FORBIDDEN: Final = frozenset(b"\r\n\0")


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

    `context`: share it only between pools with the same `http2`, since the pool sets its ALPN protocols. `max_age_s` of the settings, and what
    a service says in Keep-Alive, apply to HTTP/1.1 connections; the pool has no way to retire an HTTP/2 connection.
    """

    def __init__(
        self,
        *,
        pool: ConnectionPoolPlan = DEFAULT_POOL,
        context: ssl.SSLContext | None = None,
        http2: bool = False,
        proxy: ProxyPlan | None = None,
    ) -> None:
        self._has_proxy = proxy is not None
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            proxy=None if proxy is None else _proxy(proxy),
            max_connections=None,
            max_keepalive_connections=pool.max_idle,
            keepalive_expiry=pool.idle_timeout_s,
            http1=True,
            http2=http2,
            network_backend=Backend(Names(), max_age_s=pool.max_age_s),
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
        host = url.raw_host
        if self._has_proxy and url.scheme == "http":
            # The proxy resolves the name, and passes what it gets on as Host.
            host = host.removesuffix(b".")
        inner = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=host, port=url.port, target=url.raw_path),
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


def _proxy(proxy: ProxyPlan) -> httpcore2.Proxy:
    address = proxy.address
    url = httpcore2.URL(scheme=address.scheme, host=address.lookup_name, port=address.port, target=b"/")
    # RFC 7617 section 2.1: UTF-8, unless the proxy says otherwise.
    return httpcore2.Proxy(url, None if proxy.username is None else (proxy.username.encode(), proxy.password.encode()))


class _Trace:
    """The progress of one request, from the pool's trace events. `has_events` stays False if the transport emits none.

    `is_fresh`: on a new connection. `is_sent`: sending has started. `has_head`: the response's head has arrived. `stream_id`: of HTTP/2.
    """

    __slots__ = ("has_events", "has_head", "is_fresh", "is_sent", "stream_id")

    def __init__(self) -> None:
        self.has_events = False
        self.has_head = False
        self.is_fresh = False
        self.is_sent = False
        self.stream_id: int | None = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.has_events = True
        if event.endswith("connect_tcp.started"):
            self.is_fresh = True
        elif event.endswith("send_request_headers.started"):
            self.is_sent = True
            self.stream_id = info.get("stream_id")

    @property
    def may_be_processed(self) -> bool:
        """Whether the service may have got the request."""
        return self.is_sent or not self.has_events


class HTTPXTransport:
    """A `seam.StreamTransport` over any `httpx.AsyncBaseTransport`; also an async context manager. Closes the inner transport when it is closed.

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

        async def once(trace: _Trace) -> Answer:
            async with self.interruptible(deadline, trace):
                response = await self._head(request, address, trace, self._max_response)
                try:
                    body = await self._read(response)
                finally:
                    await response.aclose()
            headers = _fields(response)
            if body:
                coding = b",".join(value for name, value in headers if name == b"content-encoding")
                if coding:
                    body = await decode_soon(body, coding, self._max_response)
            return Answer(response.status_code, headers, body)

        return await self._resending(request, deadline, once)

    async def stream(self, request: Request, address: Address, deadline: float, rule: StreamRule) -> AnswerStream:
        """See `seam.StreamTransport`."""

        async def once(trace: _Trace) -> AnswerStream:
            response: httpx.Response | None = None
            try:
                async with self.interruptible(deadline, trace):
                    response = await self._head(request, address, trace, rule.max_bytes)
            except BaseException:
                if response is not None:
                    await response.aclose()
                raise
            return AnswerStream(response.status_code, _fields(response), _Body(self, response, trace), rule)

        return await self._resending(request, deadline, once)

    async def aclose(self) -> None:
        """See `seam.Transport`."""
        self._is_closed = True
        now = asyncio.get_running_loop().time()
        for scope in self._in_flight:
            scope.reschedule(now)
        await self._inner.aclose()

    @asynccontextmanager
    async def interruptible(self, deadline: float | None, trace: _Trace) -> AsyncIterator[None]:
        """What is awaited inside ends at `deadline` (None: never) and when the transport is closed, and raises only our own errors."""
        scope = asyncio.timeout_at(deadline)
        self._in_flight.add(scope)
        try:
            async with scope:
                yield
        except TimeoutError:
            may_be_processed = trace.may_be_processed
            if self._is_closed:
                raise ConnectionLost(
                    "the gateway closed the connection before the response was complete", may_be_processed=may_be_processed
                ) from None
            raise UpstreamTimeout("the service did not answer in time", may_be_processed=may_be_processed) from None
        except _HTTPX_ERRORS as error:
            raise _translate(error, trace) from error
        except OSError as error:
            raise ConnectionLost("the connection broke before the response was complete", may_be_processed=True) from error
        finally:
            self._in_flight.discard(scope)

    async def _resending(self, request: Request, deadline: float, once: Callable[[_Trace], Awaitable[T]]) -> T:
        """Send the request, and where the RFCs allow it once more."""
        if asyncio.get_running_loop().time() >= deadline:
            raise UpstreamTimeout("the deadline passed before the request was sent")
        if self._is_closed:
            raise ConnectionLost("the gateway has closed its connections to the service")
        trace = _Trace()
        try:
            return await once(trace)
        except ConnectionLost as error:
            # RFC 9112 section 9.3.1. Only if trace events show that a kept-alive connection broke before the response's head arrived.
            is_stale = trace.has_events and trace.is_sent and not trace.is_fresh and not trace.has_head and request.method in IDEMPOTENT
            # RFC 9113 sections 6.8 and 8.7: the service has certainly not processed it, whatever the method.
            if self._is_closed or not (is_stale or (trace.is_sent and not error.may_be_processed)):
                raise
            may_be_processed = error.may_be_processed
        try:
            return await once(_Trace())
        except UpstreamError as error:
            error.may_be_processed = error.may_be_processed or may_be_processed  # by the first try
            raise

    async def _head(self, request: Request, address: Address, trace: _Trace, limit: int | None) -> httpx.Response:
        """Send the request and read the head of the response. The caller closes the response."""
        response = await self._inner.handle_async_request(self._request(request, address, trace))
        trace.has_head = True
        try:
            _check_head(request, response, limit)
        except UpstreamError:
            await response.aclose()
            raise
        return response

    def _request(self, request: Request, address: Address, trace: _Trace) -> httpx.Request:
        target = (address.base_path + request.target).encode("ascii")
        extensions = {
            "timeout": self._timeouts,
            "trace": trace,
            # Keeps the exact bytes; httpx's URL would normalise them.
            "target": target,
        }
        if address.scheme == "https":
            extensions["sni_hostname"] = self._server_name or address.host
        return httpx.Request(
            request.method,
            httpx.URL(scheme=address.scheme, host=address.ip or address.lookup_name, port=address.port, raw_path=target),
            headers=[(b"host", request.host or address.authority.encode("ascii")), *request.headers.pairs, *request.extra],
            content=request.body,
            extensions=extensions,
        )

    async def _read(self, response: httpx.Response) -> bytes:
        limit = self._max_response
        assert isinstance(response.stream, httpx.AsyncByteStream)
        parts: list[bytes] = []
        size = 0
        async for part in response.stream:
            size += len(part)
            if size > limit:
                raise ResponseTooLarge(f"the response is larger than {limit} bytes", may_be_processed=True)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Body:
    """The body of a streamed response: a `stream.Source`."""

    def __init__(self, transport: HTTPXTransport, response: httpx.Response, trace: _Trace) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._transport = transport
        self._response = response
        self._trace = trace
        self._parts = aiter(response.stream)

    async def read(self) -> bytes:
        try:
            async with self._transport.interruptible(None, self._trace):
                part = b""
                while not part:
                    part = await anext(self._parts)
        except StopAsyncIteration:
            await self._response.aclose()
            return b""
        except BaseException:
            await self.aclose()
            raise
        return part

    async def aclose(self) -> None:
        if isinstance(self._parts, AsyncGenerator):
            await self._parts.aclose()  # closes the connection if the body is incomplete
        await self._response.aclose()


def _fields(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in response.headers.raw]


def _check_head(request: Request, response: httpx.Response, limit: int | None) -> None:
    """Raises ResponseTooLarge, or ProtocolError for a head that switches protocols, or has what HTTP/2 forbids and the pool lets through.

    **Source:** RFC 9113 section 8.2.1.
    """
    length = response.headers.get("content-length", "")
    is_sized = length.isascii() and length.isdigit() and request.method != "HEAD" and response.status_code not in {204, 304}
    if limit is not None and is_sized and int(length) > limit:
        raise ResponseTooLarge(f"the response is larger than {limit} bytes", may_be_processed=True)
    if response.status_code == 101:
        raise ProtocolError("the service switched to another protocol, which was not requested", may_be_processed=True)
    if response.extensions.get("http_version") != b"HTTP/2":
        return
    for name, value in response.headers.raw:
        if not _TOKEN.fullmatch(name) or not _FORBIDDEN.isdisjoint(value):
            raise ProtocolError("the service sent a header field that HTTP/2 forbids", may_be_processed=True)


def _translate(error: Exception, trace: _Trace) -> UpstreamError:
    if trace.stream_id is not None and _is_unprocessed(error, trace.stream_id):
        return ConnectionLost("the service closed the connection before it processed the request")
    for cause in _causes(error):
        for ours in (cause, *cause.args[:1]):
            if isinstance(ours, UpstreamError):
                return type(ours)(ours.detail, may_be_processed=ours.may_be_processed)  # from our own backend
    if isinstance(error, httpx.ConnectError):
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


def _is_unprocessed(error: Exception, stream_id: int) -> bool:
    """Whether HTTP/2 says that the request with this stream id was not processed: by GOAWAY with a lower id, or by REFUSED_STREAM.

    The pool passes h2's event on as the argument of its exception. **Source:** RFC 9113 sections 6.8 and 8.7.
    """
    for cause in _causes(error):
        event = cause.args[0] if isinstance(cause, httpcore2.RemoteProtocolError) and cause.args else None
        last = getattr(event, "last_stream_id", None)
        if last is not None:
            return bool(stream_id > last)
        if getattr(event, "stream_id", None) is not None:
            return getattr(event, "error_code", None) == _REFUSED_STREAM
    return False


def _connect_error(error: BaseException) -> ConnectError:
    """The error for httpx's ConnectError, which covers name resolution, refused connections and failed handshakes: decided by its causes."""
    is_refused = False
    for cause in _causes(error):
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
