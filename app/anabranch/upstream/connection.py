"""One HTTP/1.1 connection, client side: writes one request at a time, reads its response, and knows whether it may be used again.

An `asyncio.Protocol` around llhttp (by httptools), which is strict about the grammar. What llhttp leaves open is decided in `anabranch.upstream.head`
and here: where a message ends to the byte, and how large it may be. Everything happens in callbacks: one future and one timer an exchange, no
task, no stream. Whatever cannot be proven safe closes the connection. Knows nothing of addresses, pools or content codings.

**Source:** RFC 9112 sections 2 to 9 and 11, RFC 9110 section 6.4.
"""

import asyncio
import ssl
from io import BytesIO
from typing import Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from anabranch.core.exchange import Answer
from anabranch.errors import ConnectionLost, ProtocolError, UpstreamError, UpstreamTimeout
from anabranch.upstream.head import END, MAX_HEAD, HeadReader, Stop
from anabranch.upstream.tls import tls_error

# Chunk sizes, extensions and trailers: bytes allowed for each byte of the body, and beside. Chunks of one byte take six.
OVERHEAD_RATIO: Final = 8
OVERHEAD: Final = 2 * MAX_HEAD
# Bodies up to this size are joined to the head, so that they leave in one packet; larger ones are written in slices of this size.
SLICE: Final = 64 * 1024
# Answers above it are put together as they come; smaller ones are joined at their end.
LARGE: Final = 4 * 1024 * 1024


class Owner(Protocol):
    """Who keeps connections and wants to know what becomes of them. Each call comes at most once for a connection, in this order."""

    def opened(self, connection: "Connection") -> None:
        """Its socket is open, and the TLS handshake over."""

    def closed(self, connection: "Connection") -> None:
        """It must not be used again."""

    def gone(self, connection: "Connection") -> None:
        """Its socket is closed."""


class Connection(HeadReader, asyncio.Protocol):
    """`is_open`: may be given a request. `is_silent`: no byte of an answer has come since the last request.
    `exchanges`: answers read. `failure`: why it was closed, None when by us or not yet. `idle_since`, `expires_at`: for the owner (loop time). `coding`: Content-Encoding of the last answer, b"" for none.
    """  # fmt: skip

    __slots__ = (
        "_body_size", "_has_body", "_is_discarded", "_is_paused", "_large", "_loop", "_owner", "_parts", "_tail", "_timer", "_transport", "_unsent",
        "_waiter", "exchanges", "expires_at", "idle_since", "is_open",
    )  # fmt: skip

    def __init__(self, owner: Owner, *, max_response: int, expires_at: float) -> None:
        self._owner = owner
        self._limit = max_response
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: memoryview | None = None
        self._is_paused = False
        self._is_discarded = False
        self.failure = None
        self.is_open = False
        self.exchanges = 0
        self.expires_at = expires_at
        self.idle_since = 0.0
        self.coding = b""
        self._received = 0

    @property
    def is_silent(self) -> bool:
        return self._received == 0

    # --------------------------------------------------------------------------------------------------------- sending

    def send(self, head: bytes, body: bytes | None, *, is_head: bool, deadline: float) -> "asyncio.Future[Answer]":
        """Write a request and return the future of its answer, whose body is as it came (content codings not undone).

        `head`: with its empty line. `is_head`: the method is HEAD. `deadline`: loop time.
        The future fails with a child of UpstreamError, and then the connection is closed. When it is cancelled or not waited for, the
        caller must call `abort`. Precondition: `is_open`, and no exchange is under way.
        """
        transport = self._transport
        assert transport is not None
        self._buffer = None
        self._fields = []
        self._parts: list[bytes] = []
        self._large: BytesIO | None = None
        self._body_size = 0
        self._wire_size = 0
        self._received = 0
        self._status = 0
        self._interim = 0
        self._length = -1
        self._is_head = is_head
        self._is_complete = False
        self._is_chunked = False
        self._is_until_close = False
        self._is_reusable = False
        self._has_body = False
        self._tail = b""
        self.coding = b""
        waiter = self._waiter = self._loop.create_future()
        self._timer = self._loop.call_at(deadline, self._on_deadline)
        if not body:
            transport.write(head)
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
        """The transport's buffer is full. Only a body written in slices minds."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Write slices of a large body until the transport's buffer is full."""
        self._is_paused = False
        while self._unsent is not None and not self._is_paused and self._transport is not None:
            piece, rest = self._unsent[:SLICE], self._unsent[SLICE:]
            self._unsent = rest or None
            self._transport.write(piece)

    # --------------------------------------------------------------------------------------------------------- closing

    def abort(self) -> None:
        """Close at once, whatever is under way. A pending answer is forgotten, not failed. May be called twice."""
        was_open, self.is_open = self.is_open, False
        self._settle()
        self._unsent = None
        # The parser holds our bound methods: without this the two would wait for the garbage collector.
        self._parser = None
        if self._transport is not None:
            self._transport.abort()
        if was_open:
            self._owner.closed(self)

    def fail(self, error: UpstreamError) -> None:
        """Close at once; a pending answer fails with `error`."""
        waiter = self._waiter
        self.failure = error
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def discard(self) -> None:
        """Close a connection that never came to be used: its socket is, or is about to be, closed by whoever opened it."""
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
            # TLS 1.3: a refused client certificate is only told after our first bytes.
            self.fail(tls_error(error, may_be_processed=True))
        else:
            self._lost("reset" if error is not None else "closed")
        self._transport = None
        self._owner.gone(self)

    def eof_received(self) -> None:
        if self._is_until_close_answer():
            # RFC 9112 section 6.3, rule 8: the close is the end of the body.
            self._is_reusable = False
            self._finish()
        else:
            self._lost("closed")

    def _is_until_close_answer(self) -> bool:
        return self._waiter is not None and self._is_until_close and not self._waiter.done()

    def _lost(self, how: str) -> None:
        if self._waiter is None:
            # Between two exchanges, or before the first one, where the reason is asked for.
            self.failure = self.failure or ConnectionLost(f"the service {how} the connection before it was asked")
            self.abort()
            return
        when = "answered" if self._received == 0 else "had sent the whole answer"
        self.fail(ConnectionLost(f"the service {how} the connection before it {when}", may_be_processed=True))

    def data_received(self, data: bytes) -> None:
        waiter, parser = self._waiter, self._parser
        if waiter is None or parser is None or waiter.done():
            # Bytes that nobody asked for: the next answer on this connection could be anybody's.
            self.abort()
            return
        self._received += len(data)
        try:
            if self._wire_size == 0:
                data = self._read_head(data, parser)
                if not data:
                    return
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade, Stop) as error:
            if not self._is_complete:
                self.fail(
                    self.failure
                    or ProtocolError(f"the service sent something that is not valid HTTP: {_reason(error)}", may_be_processed=True)
                )
                return
            # What stands behind the answer is not our business, but the connection is finished.
            self._is_reusable = self._is_reusable and self._is_head
        if self._is_chunked:
            self._tail = (self._tail + data[-5:])[-5:]
            if self._received > OVERHEAD_RATIO * self._body_size + OVERHEAD:
                self.fail(ProtocolError("the chunks of the answer are mostly framing", may_be_processed=True))
                return
        if self._is_complete:
            self._finish()

    def _finish(self) -> None:
        """The answer is whole: hand it over, and close the connection unless it is clean."""
        waiter = self._waiter
        assert waiter is not None
        self.exchanges += 1
        reusable = self._is_reusable and self._unsent is None
        if reusable:
            if self._is_chunked:
                # The last chunk ends `0...CRLF CRLF` and nothing follows. llhttp skips empty lines, so they are looked for here.
                reusable = self._tail.endswith(END) and len(self._tail) == 5 and self._tail[0] != 0x0A
            else:
                reusable = self._received == self._wire_size + self._length
            if self._has_body and reusable:
                # An answer before the request was written whole (RFC 9112 section 9.5).
                reusable = self._transport is not None and self._transport.get_write_buffer_size() == 0
            if self._is_head:
                # llhttp was stopped in the middle of a message that it thinks has a body.
                self._parser = HttpResponseParser(self)
        self._settle()
        if not reusable:
            self.abort()
        if self._large is not None:
            body, self._large = self._large.getvalue(), None  # no copy
        else:
            parts = self._parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
        waiter.set_result(Answer(self._status, self._fields, body))

    # ------------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise Stop

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > self._limit:
            self._too_large()
        self._parts.append(data)
        if self._body_size > LARGE:
            self._put_together()

    def _put_together(self) -> None:
        """Copy what has come to its place now: to join all of a large body at its end would hold the loop."""
        if self._large is None:
            self._large = BytesIO()
        for part in self._parts:
            self._large.write(part)
        self._parts.clear()

    def on_message_complete(self) -> None:
        self._is_complete = self._status != 0


def _reason(error: Exception) -> str:
    return str(error.args[0]).lower() if isinstance(error, HttpParserError) and error.args else "an unexpected message"
