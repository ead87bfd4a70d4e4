"""uvicorn's HTTP protocol with limits on the size and duration of a request head, and with problem documents for what it cannot parse.

Without limits, a client that sends an endless head, or sends it byte by byte, would hold memory and a connection for ever. Bodies and later
stages have limits of their own. A request whose head arrives in one chunk, as nearly all do, starts no timer here.

A connection is refused once. The problem document is sent at once if no answer is in flight, otherwise after the answers in flight. None is
sent if the malformed part is the body of a request whose answer has begun. After that nothing more is read, and the connection closes.

**Source:** RFC 9110 section 15.5.9 (408), RFC 6585 section 5 (431), RFC 9112 sections 2.2 (400), 9.3.2 (order of answers) and 9.6
(closing).
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
"""Seconds for which bytes from a refused client are still read and dropped. Closing with unread bytes would make the system reset the
connection, and the client would lose the answer."""
_TLS_HANDSHAKE: Final = b"\x16\x03"
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0"


class BoundedProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. Refuses with 400, 408 or 431, and closes the connection.

    `max_head_bytes`: largest head; the chunk that completes the head is not counted. `head_timeout_s`: from the first bytes of a head to
    its end. A new connection that sends nothing is closed after the longer of `head_timeout_s` and the keep-alive timeout. `observe`:
    called with each refusal; may be None.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    observe: ClassVar[RefusalObserver | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._body_bytes = 0
        """Bytes of request bodies in the latest chunk."""
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
        """Like uvicorn's, but explains what is not HTTP, and does not log it: a client that sends garbage could flood the log."""
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
                    HeadTooLarge(
                        f"the request line and header fields have more than {self.max_head_bytes} bytes; send fewer or smaller fields"
                    )
                )
            elif self._timer is None:
                self._timer = self.loop.call_later(self.head_timeout_s, self._expire)

    def _feed_rest(self, rest: memoryview) -> bool:
        """Parse the bytes after a request for a protocol upgrade. Upgrades are not supported: the request is served as HTTP/1.1, and the
        next request follows it (RFC 9110 section 7.8). Returns False when something is refused."""
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
        self._unset_keepalive_if_required()  # runs if this head shares a chunk with the end of a request that was answered early
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # raises when the target is invalid; the state then remains "in the head"
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
        """Whether no request is being received or answered. Blank lines that arrive now are not a request yet (RFC 9112 section 2.2)."""
        return not self._is_in_message and (self.cycle is None or self.cycle.response_complete)

    def _is_in_late_body(self) -> bool:
        """Whether a body is still arriving whose request has been answered. It does not extend the keep-alive timeout."""
        return self._is_in_message and not self._is_in_head and self.cycle is not None and self.cycle.response_complete

    def _expire(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:  # the next request's head, while the current one is being answered
            self._timer = self.loop.call_later(self.head_timeout_s, self._expire)
        elif not self.transport.is_closing():
            self._refuse(
                HeadTimeout(f"the request line and header fields were not complete within {self.head_timeout_s:g} s; send them faster")
            )

    # ----------------------------------------------------------------------------------------------------------- refusing

    def _refuse(self, error: RequestError) -> None:
        """Stop reading, report the refusal once, and close as soon as the answers in flight allow it."""
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
        """The body of this request is malformed: answer the request with the refusal, unless its answer has begun."""
        if cycle.response_complete:
            self._end(None)
        elif self.pipeline and self.pipeline[0][0] is cycle:  # the application has not seen this request yet

            async def refuse(*_: object) -> None:
                self._end_instead(cycle, problem)

            self.pipeline[0] = (cycle, refuse)
        elif not cycle.response_started:
            self._end_instead(cycle, problem)
        else:
            self.transport.close()

    def _end_instead(self, cycle: RequestResponseCycle, problem: problems.ProblemResponse) -> None:
        """Send the problem in place of the pending answer. The application's answer is discarded, as after a client disconnect."""
        cycle.disconnected = True
        cycle.message_event.set()
        self._end(problem)

    def _end_after(self, cycle: RequestResponseCycle, problem: problems.ProblemResponse) -> None:
        """Send the problem after the last answer in flight, if the connection is still open then."""
        on_response = cycle.on_response

        def answered() -> None:
            on_response()
            if not self.transport.is_closing():
                self._end(problem)

        cycle.on_response = answered

    def _end(self, problem: problems.ProblemResponse | None) -> None:
        """Send the problem, if there is one, and close."""
        self._unset_keepalive_if_required()
        if problem is not None:
            self.transport.write(as_http1(problem, self.server_state.default_headers))
        self._close()

    def _close(self) -> None:
        """Close once the client has closed, or has had time to read what was sent."""
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
    """The protocol, with `observe` called for each refusal."""
    return type("ObservedProtocol", (BoundedProtocol,), {"observe": None if observe is None else staticmethod(observe)})


def _explained(error: httptools.HttpParserError, data: bytes) -> str:
    """What is wrong and what to do. The parser's messages are fixed sentences: they contain nothing that the client sent."""
    if data.startswith(_TLS_HANDSHAKE):
        return "this port speaks plain HTTP, not TLS; use http:// instead of https://"
    if data.startswith(_HTTP2_PREFACE):
        return "this port speaks HTTP/1.1, not HTTP/2; configure the client to use HTTP/1.1"
    reason = "the request target is not a path" if isinstance(error, httptools.HttpParserCallbackError) else str(error)
    return f"not a valid HTTP/1.1 request: {reason}"


def as_http1(
    problem: problems.ProblemResponse, default_headers: list[tuple[bytes, bytes]], *, is_head: bool = False, closes: bool = True
) -> bytes:
    """The whole response on the wire. `default_headers`: the server's own, which are Date and, during a drain, `Connection: close`."""
    fields = [
        *(pair for pair in default_headers if pair[0].lower() != b"connection"),
        *problem.headers,
        (b"content-length", b"%d" % len(problem.body)),
    ]
    if closes:
        fields.append((b"connection", b"close"))
    head = b"".join([b"%b: %b\r\n" % pair for pair in fields])
    return b"%b%b\r\n%b" % (STATUS_LINE[problem.status], head, b"" if is_head else problem.body)
