"""uvicorn's HTTP protocol with what it lacks before a request is one: bounds for the size and the time of its head, and problem documents.

Without bounds a client that sends a head without an end, or byte by byte, would hold memory and a connection for ever. Bodies and everything
later have bounds of their own. A request whose head comes in one piece, as nearly all do, starts no timer here.

What cannot be served is refused once: with a problem document where nothing else is being answered, behind the answers under way where
something is, and without a word where an answer has begun that the refusal would come amid. Then nothing more is read, and the connection closes.

**Source:** RFC 9110 section 15.5.9 (408), RFC 6585 section 5 (431), RFC 9112 sections 2.2 (400), 9.3.2 (order of answers) and 9.6 (closing).
"""

import asyncio
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from anabranch.edge import problems
from anabranch.edge import request_id as trace
from anabranch.engine.event import Refusal, RefusalObserver
from anabranch.errors import HeadTimeout, HeadTooLarge, MalformedRequest, RequestError

_LINGER_S: Final = 1.0
"""How long what a refused client still sends is taken in and dropped. Were the connection closed with bytes unread, the system would reset
it, and the client would lose the answer."""
_TLS_HANDSHAKE: Final = b"\x16\x03"
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0"


class BoundedProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. Refuses with 400, 408 and 431, and closes.

    `max_head_bytes`: largest head; what came with the last piece of it may be more. `head_timeout_s`: from the first bytes of a head
    to its end. A connection without any bytes is closed after the keep-alive timeout, like one between two requests.
    `observe`: told of what is refused; may be None.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    observe: ClassVar[RefusalObserver | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._body_bytes = 0
        """Of bodies, in the piece that came last."""
        self._is_in_head = False
        self._is_in_message = False
        self._has_ended_message = False
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        idle_s = max(self.timeout_keep_alive, self.head_timeout_s)
        self.timeout_keep_alive_task = self.loop.call_later(idle_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but with other words for what is no HTTP, and without its lines in the log: whoever sends garbage could fill it."""
        if self._is_refused:
            return
        if not self._is_in_late_body():
            self._unset_keepalive_if_required()
        self._has_ended_message = False
        self._body_bytes = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequest(_explained(error, data)))
            return
        except httptools.HttpParserUpgrade as upgrade:
            if not self._feed_rest(memoryview(data)[upgrade.args[0] :]):
                return
        if self._is_in_head or (self._is_between() and not self._has_ended_message):
            self._head_bytes += len(data) - self._body_bytes
            if self.transport.is_closing():
                return
            if self._head_bytes > self.max_head_bytes:
                self._refuse(
                    HeadTooLarge(f"request line and header fields have more than {self.max_head_bytes} bytes; send fewer or smaller ones")
                )
            elif self._timer is None:
                self._timer = self.loop.call_later(self.head_timeout_s, self._expire)

    def _feed_rest(self, rest: memoryview) -> bool:
        """Take in what follows a request for another protocol, which is not for us: the request is served as it is, and the next one comes
        behind it (RFC 9110 section 7.8). Returns False when something is refused."""
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserError as error:
                self._refuse(MalformedRequest(_explained(error, bytes(rest[: len(_HTTP2_PREFACE)]))))
                return False
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                break
        return True

    def on_message_begin(self) -> None:
        self._is_in_head = self._is_in_message = True
        self._unset_keepalive_if_required()  # behind a request that was answered early, in one piece with the end of it
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # raises when the target is none; then we are still in the head
        self._end_head()

    def _end_head(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        if self._timer is not None:
            self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        self._has_ended_message = True
        super().on_message_complete()

    def _is_between(self) -> bool:
        """Whether no request is being received or answered. Line ends may come here, which are no request yet (RFC 9112 section 2.2)."""
        return not self._is_in_message and (self.cycle is None or self.cycle.response_complete)

    def _is_in_late_body(self) -> bool:
        """Whether a body is being received whose request has its answer. It does not keep the connection: the keep-alive timeout runs on."""
        return self._is_in_message and not self._is_in_head and self.cycle is not None and self.cycle.response_complete

    def _expire(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:  # the head of a next request, while this one is answered
            self._timer = self.loop.call_later(self.head_timeout_s, self._expire)
        elif not self.transport.is_closing():
            self._refuse(HeadTimeout(f"request line and header fields were not whole within {self.head_timeout_s:g} s; send them at once"))

    # ----------------------------------------------------------------------------------------------------------- refusing

    def _refuse(self, error: RequestError) -> None:
        """Read nothing more, tell of it once, and close as soon as what is being answered allows it."""
        self._is_refused = True
        self._stop_timer()
        request_id = trace.read({}).request_id
        observe = type(self).observe
        if observe is not None:
            observe(Refusal(error.code, error.status, error.detail, request_id.decode(), self.client))
        problem = problems.of_request(error, request_id)
        cycle: RequestResponseCycle | None = self.cycle
        if not self._is_in_head and cycle is not None and cycle.more_body:
            self._refuse_body(cycle, problem)
        elif cycle is None or cycle.response_complete:
            self._end(problem)
        else:
            self._end_after(cycle, problem)

    def _refuse_body(self, cycle: RequestResponseCycle, problem: problems.ProblemResponse) -> None:
        """It is the body of this request that is none: the refusal is its answer, if it has no other one yet."""
        if cycle.response_complete:
            self._end(None)
        elif self.pipeline and self.pipeline[0][0] is cycle:  # nobody has seen it yet

            async def refuse(*_: object) -> None:
                self._end_instead(cycle, problem)

            self.pipeline[0] = (cycle, refuse)
        elif not cycle.response_started:
            self._end_instead(cycle, problem)
        else:
            self.transport.close()

    def _end_instead(self, cycle: RequestResponseCycle, problem: problems.ProblemResponse) -> None:
        """Give this answer in place of the one that is to come. What is made for it from here on goes nowhere, as when its client had gone."""
        cycle.disconnected = True
        cycle.message_event.set()
        self._end(problem)

    def _end_after(self, cycle: RequestResponseCycle, problem: problems.ProblemResponse) -> None:
        """Let the last of the answers under way be given, and refuse behind it, where it leaves the connection open."""
        on_response = cycle.on_response

        def answered() -> None:
            on_response()
            if not self.transport.is_closing():
                self._end(problem)

        cycle.on_response = answered

    def _end(self, problem: problems.ProblemResponse | None) -> None:
        """Say why, and that nothing follows."""
        self._unset_keepalive_if_required()
        if problem is not None:
            self.transport.write(as_http1(problem, self.server_state.default_headers))
        self._close()

    def _close(self) -> None:
        """Close when the other side has, or has had time to read what was sent."""
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def observed(observe: RefusalObserver | None) -> type[BoundedProtocol]:
    """The protocol, telling `observe` of what it refuses."""
    return type("ObservedProtocol", (BoundedProtocol,), {"observe": None if observe is None else staticmethod(observe)})


def _explained(error: httptools.HttpParserError, data: bytes) -> str:
    """What is wrong and what to do. The parser's words are fixed sentences of its own: nothing of what came is in them."""
    if data.startswith(_TLS_HANDSHAKE):
        return "this is the beginning of a TLS connection, and this port speaks plain HTTP; ask with http:// instead of https://"
    if data.startswith(_HTTP2_PREFACE):
        return "this is the beginning of an HTTP/2 connection, and this port speaks HTTP/1.1; let the client ask with that"
    reason = "the target is no path" if isinstance(error, httptools.HttpParserCallbackError) else str(error)
    return f"what came is not HTTP/1.1: {reason}. Look at what writes request line, header fields and body"


def as_http1(
    problem: problems.ProblemResponse, default_headers: list[tuple[bytes, bytes]], *, is_head: bool = False, closes: bool = True
) -> bytes:
    """The whole response on the wire. `default_headers`: of the server: Date, and in a drain that the connection closes."""
    fields = [
        *(pair for pair in default_headers if pair[0].lower() != b"connection"),
        *problem.headers,
        (b"content-length", b"%d" % len(problem.body)),
    ]
    if closes:
        fields.append((b"connection", b"close"))
    head = b"".join([b"%b: %b\r\n" % pair for pair in fields])
    return b"%b%b\r\n%b" % (STATUS_LINE[problem.status], head, b"" if is_head else problem.body)
