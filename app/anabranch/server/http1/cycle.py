"""One request and its response, between a connection and an ASGI application. Knows how a response is written, and nothing of sockets.

**Source:** RFC 9110 sections 6.4, 6.6.1, 8.6, 9.3.2, 10.1.1 and 15; RFC 9112 sections 4, 6, 7.1 and 9.6; ASGI HTTP specification 2.3.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope

from anabranch.edge import problems, request_id
from anabranch.edge.problems import ProblemResponse
from anabranch.server.http1.head import TEXT, TOKEN, Fields, Head, elements

logger = logging.getLogger("anabranch.server")

VERSION: Final = b"HTTP/1.1 "
"""What every response begins with."""
HIGH_WATER_BYTES: Final = 64 * 1024
"""No more is read while more than this waits for the application."""
_CONTINUE: Final = VERSION + b"100 Continue\r\n\r\n"
_NONE: Final = -1
_BODYLESS: Final = frozenset({204, 205, 304})
_FRAMING: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})
"""Response fields that are written here. What the application says of them is heeded, and not copied."""
_USUAL: Final = frozenset(
    {
        b"access-control-allow-origin", b"access-control-expose-headers", b"age", b"cache-control", b"cache-status", b"content-type", b"etag",
        b"gateway-complete", b"proxy-status", b"retry-after", b"server-timing", b"traceresponse", b"vary", b"x-request-id",
    }
)  # fmt: skip
"""Names that need no check."""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


STATUS_LINES: Final = {status: b"%b%d %b\r\n" % (VERSION, status, _phrase(status).encode()) for status in range(200, 600)}


class Connection(Protocol):
    """What a cycle needs of its connection. `is_write_paused`: the client does not read what was sent."""

    is_write_paused: bool

    @property
    def default_fields(self) -> Fields:
        """Fields of every response: Date, and `Connection: close` during a drain."""
        ...

    def write(self, data: bytes) -> None: ...

    def write_head(self, head: bytes) -> None: ...

    async def drain(self) -> None:
        """Returns when the client has read enough, or has gone."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def end_response(self) -> None:
        """The response is complete."""
        ...

    def abandon(self, *, is_reset: bool) -> None:
        """The response cannot be completed. `is_reset`: only a reset can tell the client so."""
        ...


class Cycle:
    """One request, from the end of its head to the end of its response.

    `disconnected`: nobody waits for the response any more, and what the application sends is dropped. `keeps_alive`: the connection may
    serve further requests after this one; can be set to False until the response has started. `has_more`: the request's body is still being
    received.
    """

    __slots__ = (
        "_connection",
        "_content",
        "_content_bytes",
        "_event",
        "_expects_continue",
        "_has_body",
        "_head",
        "_is_delivered",
        "_left",
        "disconnected",
        "has_more",
        "is_chunked",
        "is_complete",
        "is_started",
        "keeps_alive",
        "scope",
    )

    def __init__(self, connection: Connection, scope: Scope, head: Head) -> None:
        self.scope = scope
        self.disconnected = False
        self.has_more = head.length != 0
        self.is_started = False
        self.is_complete = False
        self.keeps_alive = head.keeps_alive
        self.is_chunked = False
        """The response is sent in chunks."""
        self._connection = connection
        self._head = head
        self._expects_continue = head.expects_continue
        self._content: list[bytes] = []
        self._content_bytes = 0
        self._is_delivered = False
        """The application has received the end of the body."""
        self._event: asyncio.Event | None = None
        """Set when there is something to receive. None until the application has to wait for it."""
        self._has_body = True
        """The response has a body on the wire."""
        self._left = _NONE
        """Bytes of the response's body that are still to be sent; _NONE: its length is not known."""

    async def run(self, app: ASGIApp) -> None:
        """Run the application for this request. For an application that fails or returns too early, the client gets a problem."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fail(_of_cancelled)
            raise
        except Exception:
            logger.exception("the application failed")
            self._fail(problems.internal)
        else:
            if not self.is_complete and not self.disconnected:
                logger.error("the application returned without a complete response")
                self._fail(problems.internal)

    def _fail(self, problem_for: Callable[[bytes], ProblemResponse]) -> None:
        if self.disconnected or self.is_complete:
            return
        if self.is_started:
            self._connection.abandon(is_reset=self._has_body and self._left == _NONE and not self.is_chunked)
            return
        problem = problem_for(request_id.read(dict(self._head.fields)).request_id)
        self.keeps_alive = False
        self._start(problem.status, [*problem.headers, (b"content-length", b"%d" % len(problem.body))])
        self._write_body(problem.body, has_more=False)

    # ---------------------------------------------------------------------------------------------------------- request

    def feed(self, content: bytes, *, is_last: bool) -> None:
        """The next part of the request's body has come."""
        if is_last:
            self.has_more = False
        if self.is_complete or self.disconnected:
            return
        if content:
            self._content.append(content)
            self._content_bytes += len(content)
            if self._content_bytes > HIGH_WATER_BYTES and not is_last:
                self._connection.pause_reading()
        if self._event is not None:
            self._event.set()

    def disconnect(self) -> None:
        """The client has gone, or is answered with a refusal."""
        self.disconnected = True
        if self._event is not None:
            self._event.set()

    async def receive(self) -> Message:
        """ASGI: the next part of the body; then, once the response is complete or nobody waits for it, the disconnect."""
        if self._expects_continue:
            self._expects_continue = False
            if self.has_more and not self._content and not self.is_started and not self.disconnected:
                self._connection.write(_CONTINUE)
        while not (self.disconnected or self.is_complete):
            if self._content or not (self.has_more or self._is_delivered):
                content = self._content
                body = content[0] if len(content) == 1 else b"".join(content)
                content.clear()
                self._content_bytes = 0
                self._is_delivered = not self.has_more
                self._connection.resume_reading()
                return {"type": "http.request", "body": body, "more_body": self.has_more}
            if self._event is None:
                self._event = asyncio.Event()
            self._event.clear()
            await self._event.wait()
        return {"type": "http.disconnect"}

    # --------------------------------------------------------------------------------------------------------- response

    async def send(self, message: Message) -> None:
        """ASGI: the next part of the response. Raises RuntimeError when it must not be sent; nothing of it is sent then."""
        if self._connection.is_write_paused and not self.disconnected:
            await self._connection.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.is_started:
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.is_started and not self.is_complete:
            self._write_body(message.get("body", b""), has_more=message.get("more_body", False))
        else:
            raise RuntimeError(f"an application must not send {kind!r} now")

    def _start(self, status: int, given: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head. `given`: the application's fields."""
        lines = [STATUS_LINES[status]]
        self._has_body, self.is_chunked, self._left = True, False, _NONE  # an earlier call may have failed
        length = _NONE
        closes = not self.keeps_alive or (self._expects_continue and self.has_more)
        has_date = False
        count = 1
        for spelling, value in given:
            name = spelling
            if name not in _USUAL:
                name = name.lower()
                if name in _FRAMING:
                    if name == b"content-length":
                        length = int(value)
                    elif name == b"connection":
                        closes = closes or b"close" in elements(value)
                    continue
                if not name or name.translate(None, TOKEN):
                    raise RuntimeError("a response field has a name that is not a token")
                has_date = has_date or name == b"date"
            lines += (name, b": ", value, b"\r\n")
            count += 1
        for name, value in self._connection.default_fields:
            if name == b"connection":
                closes = True
            elif name != b"date" or not has_date:
                lines += (name, b": ", value, b"\r\n")
                count += 1
        if status in _BODYLESS or self._head.method == "HEAD":
            self._has_body = False
            if status == 205:
                length = 0
            if status == 204:
                length = _NONE
        elif length != _NONE:
            self._left = length
        elif self._head.version == "1.0":
            closes = True  # which ends the body
        else:
            self.is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
            count += 1
        if length != _NONE:
            lines.append(b"content-length: %d\r\n" % length)
            count += 1
        if closes:
            self.keeps_alive = False
            lines.append(b"connection: close\r\n")
            count += 1
        head = b"".join(lines)
        if len(head.translate(None, TEXT)) != 2 * count:
            raise RuntimeError("a response field has a control character")
        self.is_started = True
        self._connection.write_head(head + b"\r\n")

    def _write_body(self, body: bytes, *, has_more: bool) -> None:
        if not self._has_body:
            pass
        elif self.is_chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not has_more:
                body += b"0\r\n\r\n"
        elif self._left != _NONE:
            left = self._left - len(body)
            if left < 0 or (left and not has_more):
                raise RuntimeError("the body of the response is not as long as its Content-Length")
            self._left = left
        if body and self._has_body:
            self._connection.write(body)
        if not has_more:
            self.is_complete = True
            if self._event is not None:
                self._event.set()
            self._connection.end_response()


def _of_cancelled(request: bytes) -> ProblemResponse:
    """For a request that is cancelled because the gateway stops."""
    problem = problems.of_status(503, "Service Unavailable", "the gateway is stopping, and the request was not completed", request)
    problem.headers.append((b"retry-after", b"1"))
    return problem


def as_response(problem: ProblemResponse, default_fields: Fields, *, is_head: bool = False, closes: bool = True) -> bytes:
    """The whole response that carries `problem`, for a request that no application has seen."""
    fields = [
        *(field for field in default_fields if field[0] != b"connection"),
        *problem.headers,
        (b"content-length", b"%d" % len(problem.body)),
    ]
    if closes:
        fields.append((b"connection", b"close"))
    head = b"".join([b"%b: %b\r\n" % field for field in fields])
    return b"%b%b\r\n%b" % (STATUS_LINES[problem.status], head, b"" if is_head else problem.body)
