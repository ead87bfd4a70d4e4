"""One HTTP/1.1 client connection: writes one request at a time, reads its response, and decides whether the connection may be reused.

An `asyncio.Protocol` around llhttp (by httptools), which enforces the grammar; `anabranch.upstream.message` checks what llhttp does not.
Everything runs in callbacks: one future and one timer for each exchange, no task, no stream. The connection is closed unless it is proven
safe to reuse. Does not decode content codings.

**Source:** RFC 9112 sections 2 to 9 and 11, RFC 9110 section 6.4.
"""

import asyncio
import socket
import ssl
from functools import partial
from io import BytesIO
from typing import Final, Protocol

from anabranch.core.exchange import Answer, BodySource
from anabranch.errors import ConnectionLost, UpstreamError, UpstreamTimeout
from anabranch.upstream.body import BodyBuffer
from anabranch.upstream.message import MessageReader
from anabranch.upstream.quickack import acknowledge
from anabranch.upstream.tls import tls_error

# Request bodies up to this size are written together with the head; larger ones are written in slices of this size.
SLICE: Final = 64 * 1024
# A body that is not in memory is read in pieces of this size.
PIECE: Final = 256 * 1024
# Response bodies above this size are assembled as they arrive; smaller ones are joined at the end.
LARGE: Final = 4 * 1024 * 1024


class Owner(Protocol):
    """Receives the state changes of its connections. Each method but `released` is called at most once for a connection, in this order."""

    def opened(self, connection: "Connection") -> None:
        """The socket is open and the TLS handshake is complete."""

    def released(self, connection: "Connection") -> None:
        """A streamed response has come to its end, and the connection may be reused."""

    def closed(self, connection: "Connection") -> None:
        """The connection must not be used again."""

    def gone(self, connection: "Connection") -> None:
        """The socket is closed."""


class Connection(MessageReader, asyncio.Protocol):
    """`is_open`: can take a request. `is_silent`: no byte of a response has arrived since the last request. `exchanges`: responses read.
    `failure`: why the connection was closed; None if we closed it or it is open. `idle_until`, `expires_at`: for the owner (loop time).
    `coding`: Content-Encoding of the last response, b"" for none. `socket`: below the transport, if known.
    """

    __slots__ = (
        "_has_body", "_into", "_is_discarded", "_is_paused", "_is_reading", "_large", "_loop", "_max_response", "_owner", "_parts", "_read_to",
        "_source", "_timer", "_transport", "_unsent", "_waiter", "exchanges", "expires_at", "idle_until", "is_open", "socket",
    )  # fmt: skip

    def __init__(self, owner: Owner, *, max_response: int, expires_at: float) -> None:
        self._owner = owner
        self._max_response = self._limit = max_response
        self._loop = asyncio.get_running_loop()
        self._new_parser()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._into: BodyBuffer | None = None
        self._unsent: memoryview | None = None
        self._source: BodySource | None = None
        self._read_to = 0
        self._is_reading = False
        self._is_paused = False
        self._is_discarded = False
        self.failure = None
        self.is_open = False
        self.exchanges = 0
        self.expires_at = expires_at
        self.idle_until = 0.0
        self.keep_alive = None
        self.socket: socket.socket | None = None
        self._received = 0

    @property
    def is_silent(self) -> bool:
        return self._received == 0

    # --------------------------------------------------------------------------------------------------------- sending

    def send(
        self, head: bytes, body: bytes | BodySource | None, *, is_head: bool, deadline: float, into: BodyBuffer | None = None
    ) -> "asyncio.Future[Answer]":
        """Write a request and return the future of its response, with the body as received (content codings not decoded).

        `head`: including its empty line. `is_head`: the method is HEAD. `deadline`: loop time. `into`: takes the body; then the future is
        that of the response's head, its body is b"", and `deadline` ends with it.
        If the future fails, it raises a child of UpstreamError and the connection is closed. If it is cancelled or not awaited, the caller
        must call `abort`, or `into.abort` if there is one. Precondition: `is_open`, and no exchange is in flight.
        """
        transport = self._transport
        assert transport is not None
        self._begin(is_head)
        self._parts: list[bytes] | BodyBuffer = []
        self._large: BytesIO | None = None
        self._has_body = False
        if into is not None:
            self._into = self._parts = into
            self._limit = into.limit
            into.attach(self)
        waiter = self._waiter = self._loop.create_future()
        self._timer = self._loop.call_at(deadline, self._on_deadline)
        if not body:
            transport.write(head)
        elif not isinstance(body, bytes):
            self._has_body = True
            self._source, self._read_to = body, 0
            transport.write(head)
            if not self._is_paused:
                self.resume_writing()
        elif len(body) <= SLICE:
            self._has_body = True
            transport.write(head + body)
        else:
            self._has_body = True
            self._unsent = memoryview(body)
            transport.write(head)
            if not self._is_paused:
                self.resume_writing()
        return waiter

    def pause_writing(self) -> None:
        """The transport's buffer is full. Only matters for a body written in slices."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Write slices of a large body until the transport's buffer is full."""
        self._is_paused = False
        if self._source is not None and not self._is_reading:
            self._read_piece(self._source)
        while self._unsent is not None and not self._is_paused and self._transport is not None:
            part, rest = self._unsent[:SLICE], self._unsent[SLICE:]
            self._unsent = rest or None
            self._transport.write(part)

    def _read_piece(self, source: BodySource) -> None:
        """Read the next piece of a body that is not in memory, on a thread, and write it then."""
        self._is_reading = True
        reading = self._loop.run_in_executor(None, source.read, self._read_to, PIECE)
        reading.add_done_callback(partial(self._write_piece, source))

    def _write_piece(self, source: BodySource, reading: "asyncio.Future[bytes]") -> None:
        self._is_reading = False
        error = None if reading.cancelled() else reading.exception()
        if self._source is not source or self._transport is None or reading.cancelled():
            return  # the exchange has ended meanwhile
        if error is not None or not (piece := reading.result()):
            self.fail(ConnectionLost("the gateway could not read the upload that it was sending", may_be_processed=True))
            return
        self._read_to += len(piece)
        if self._read_to >= len(source):
            self._source = None
        self._transport.write(piece)
        if self._source is not None and not self._is_paused:
            self._read_piece(source)

    # --------------------------------------------------------------------------------------------------------- closing

    def abort(self) -> None:
        """Close at once. The future of a pending response is dropped and never set. May be called twice."""
        was_open, self.is_open = self.is_open, False
        self._settle()
        self._into = None
        self._unsent = self._source = None
        # Breaks the reference cycle with the parser, which would otherwise be left to the garbage collector.
        self._parser = None
        if self._transport is not None:
            self._transport.abort()
        if was_open:
            self._owner.closed(self)

    def fail(self, error: UpstreamError) -> None:
        """Close at once; a pending response fails with `error`."""
        waiter, into = self._waiter, self._into
        self.failure = error
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        elif into is not None:
            into.fail(error)

    def discard(self) -> None:
        """Close a connection that was never used. The caller, which opened its socket, closes the socket."""
        self._is_discarded = True
        self.abort()
        if self._transport is not None:
            self._transport = None
            self._owner.gone(self)

    def _settle(self) -> None:
        self._waiter = None
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_deadline(self) -> None:
        self.fail(UpstreamTimeout("the service did not answer in time", may_be_processed=True))

    # ------------------------------------------------------------------------------------------------- socket callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._is_discarded:
            transport.close()
            return
        self._transport = transport  # type: ignore[assignment]
        self.is_open = True
        self._owner.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_discarded:
            return
        if isinstance(error, ssl.SSLError):
            # TLS 1.3: the service reports a rejected client certificate only after our first bytes.
            self.fail(tls_error(error, may_be_processed=True))
        else:
            self._lost("reset" if error is not None else "closed")
        self._transport = None
        self.socket = None
        self._owner.gone(self)

    def eof_received(self) -> None:
        waiter = self._waiter
        if waiter is not None and self._is_until_close and (self._into is not None or not waiter.done()):
            # RFC 9112 section 6.3, rule 8: the close ends the body.
            self._is_reusable = False
            self._finish(waiter)
        else:
            self._lost("closed")

    def _lost(self, how: str) -> None:
        if self._waiter is None:
            # Between two exchanges, or before the first one; the transport then raises `failure`.
            self.failure = self.failure or ConnectionLost(f"the service {how} the connection before the request was sent")
            self.abort()
            return
        when = "it responded" if self._received == 0 else "its response was complete"
        self.fail(ConnectionLost(f"the service {how} the connection before {when}", may_be_processed=True))

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or (waiter.done() and self._into is None):
            # Unexpected bytes: the next response on this connection could belong to another request.
            self.abort()
            return
        error = self._consume(data)
        if error is not None:
            self.fail(error)
        elif self._is_complete:
            self._finish(waiter)
        else:
            if self.socket is not None:
                acknowledge(self.socket)
            if self._into is not None and self._status:
                self._stream_on(waiter)

    def _stream_on(self, waiter: "asyncio.Future[Answer]") -> None:
        """The head of a streamed response is complete, its body is not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not waiter.done():
            waiter.set_result(Answer(self._status, self._fields, b""))

    def _finish(self, waiter: "asyncio.Future[Answer]") -> None:
        """The response is complete: set its future, and close the connection unless it is safe to reuse."""
        self.exchanges += 1
        reusable = self._is_reusable and self._unsent is None and self._source is None and self._is_clean()
        if reusable:
            if self._has_body:
                # The service responded before the whole request was written (RFC 9112 section 9.5).
                reusable = self._transport is not None and self._transport.get_write_buffer_size() == 0
            if self._is_head:
                # llhttp was stopped inside a message, because it expects a body.
                self._new_parser()
        self._settle()
        into = self._into
        if into is not None:
            self._finish_stream(into, waiter, reusable=reusable)
            return
        if not reusable:
            self.abort()
        if self._large is not None:
            body, self._large = self._large.getvalue(), None  # no copy
        else:
            parts = self._parts
            assert isinstance(parts, list)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
        waiter.set_result(Answer(self._status, self._fields, body))

    def _finish_stream(self, into: BodyBuffer, waiter: "asyncio.Future[Answer]", *, reusable: bool) -> None:
        answer = Answer(self._status, self._fields, b"")
        self._into = None
        self._parts = []
        self._limit = self._max_response
        into.end()
        if reusable and self.is_open:
            self._owner.released(self)
        else:
            self.abort()
        if not waiter.done():
            waiter.set_result(answer)

    # -------------------------------------------------------------------------------------------- for a streamed body

    def pause(self) -> None:
        """Stop receiving: the reader of the body is slower than the service."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # ------------------------------------------------------------------------------------------------- parser callbacks

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > self._limit:
            raise self._too_large()
        self._parts.append(data)
        if self._body_size > LARGE and self._into is None:
            self._append_parts()

    def _append_parts(self) -> None:
        """Append the received parts to one buffer now: joining a large body at the end would block the event loop."""
        parts = self._parts
        assert isinstance(parts, list)
        if self._large is None:
            self._large = BytesIO()
        for part in parts:
            self._large.write(part)
        parts.clear()
