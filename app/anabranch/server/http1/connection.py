"""A client's connection: reads one request after the other, has each answered, and refuses what is no request.

An `asyncio.Protocol` for `uvicorn.Config(http=...)`. The next request stays unparsed until the current one is answered, so that answers cannot
be mixed up, a refusal always comes in its turn, and a client that pipelines holds no more than one buffer of memory.

A client may stop sending once its requests are complete (half-close): it is answered all the same. A client that closed its connection looks no
different, until something is sent to it. So the first bytes of the response, which every response has, are sent at once. If the client has gone, its
system answers with a reset, and the request is cancelled.

**Source:** RFC 9112 sections 2.2, 8, 9.3, 9.3.2 and 9.6; RFC 9110 section 7.8; RFC 6585 section 5 (431); RFC 9293 section 3.6 (half-closed
connections, and data for a closed one).
"""

import asyncio
import socket
import struct
import sys
from contextlib import suppress
from fcntl import ioctl
from ssl import DER_cert_to_PEM_cert
from termios import TIOCOUTQ
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from anabranch.core.certificate import CERTIFICATE, ClientCertificate
from anabranch.edge import problems
from anabranch.edge import request_id as trace
from anabranch.engine.event import Refusal, RefusalObserver
from anabranch.errors import HeadTimeout, HeadTooLarge, MalformedRequest, RefusedRequest, TargetTooLong
from anabranch.server.http1.body import Body, ChunkedBody, SizedBody
from anabranch.server.http1.cycle import HIGH_WATER_BYTES, VERSION, Cycle, as_response
from anabranch.server.http1.head import CHUNKED, Fields, Head, check_beginning, parse_head

_LINGER_S: Final = 1.0
"""Seconds for which bytes from a client are still read and dropped after the last response. If any came after the close, the system would reset the
connection, and the client could lose the response (RFC 9112 section 9.6)."""
_RESET_POLL_S: Final = 0.1
"""Seconds between two looks whether a half-closed connection was reset: the event loop reads it no more, and would not notice."""
_PROBE_S: Final = 15
"""Seconds between the system's probes of a half-closed connection (TCP keep-alive)."""
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER. Without it a system may end an aborted connection as if everything had been sent."""
_END: Final = b"\r\n\r\n"
_LINE_ENDS: Final = frozenset({b"\r", b"\n"})
_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class BoundedProtocol(asyncio.Protocol):
    """Serves the requests of one connection. Refuses what is no request, and closes the connection.

    `max_head_bytes`: of the request line and the fields together. `head_timeout_s`: from the first bytes of a head to its end. A new connection that
    sends nothing is closed after the longer of `head_timeout_s` and the keep-alive timeout. `stall_s`: for how long a client may read nothing
    while bytes wait for it; then the connection is reset. `observe`: called with each refusal; may be None.
    `cycle`: the current request, until its response is complete; None between requests.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    stall_s: ClassVar[float] = 60.0
    observe: ClassVar[RefusalObserver | None] = None

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._app: ASGIApp = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._idle_s: float = config.timeout_keep_alive
        self._server: tuple[Any, Any] | None = None
        self._client: tuple[str, int] | None = None
        self._scheme = "http"
        self._extensions: dict[str, Any] | None = None
        """Of TLS, with the certificate of the client; None without one."""
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # comes with the connection
        self.cycle: Cycle | None = None
        self._body: Body | None = None
        """The request body that is being received. It may outlast its response."""
        self._unread = b""
        """What has come behind the current request."""
        self._searched = 0
        """Bytes of `_unread` that are known to hold no end of a head, and no fault."""
        self._blank_bytes = 0
        """Bytes of empty lines before the next request."""
        self._is_ended = False
        """No further request is read: the connection is being closed."""
        self._is_eof = False
        """The client has shut down its sending side."""
        self._is_version_sent = False
        """The first bytes of the next response have been sent already."""
        self._is_read_paused = False
        self.is_write_paused = False
        self._drained = asyncio.Event()
        self._stall_timer: asyncio.TimerHandle | None = None
        """Runs while the client reads too slowly, or does not read what is left at the close."""
        self._idle_until = 0.0
        """When to close without a further request (loop time)."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        """For a head that is incomplete, a half-closed connection, or a last wait before closing: only one of them at a time."""

    # ------------------------------------------------------------------------------------------------------- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # no transport of uvloop is an instance of it
        self._transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names only its own protocols
        self._server = _address(transport.get_extra_info("sockname"))
        self._client = _address(transport.get_extra_info("peername"))
        if transport.get_extra_info("sslcontext"):
            self._scheme = "https"
            self._extensions = _extensions_of(transport)
        self._idle_until = self._loop.time() + max(self._idle_s, self.head_timeout_s)
        self._idle_timer = self._loop.call_at(self._idle_until, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._is_ended = True
        self._unread = b""
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._disconnect()
        self.resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def eof_received(self) -> bool:
        """The client has shut down its sending side, or closed. Returns True to keep the connection for the responses that it is owed."""
        self._is_eof = True
        if self._is_ended or not self._transport.can_write_eof():  # TLS has no half-closed connections here
            return False
        if self._is_owed_response() and self._body is None:
            self._watch_half_closed()
            return True
        self._end_of_input()
        return False

    def shutdown(self) -> None:
        """The server ends: close now, or behind the current response."""
        if self.cycle is not None:
            self.cycle.keeps_alive = False
        elif not self._is_ended:  # else it closes once its client has had time to read
            self._finish()

    def announce_close(self) -> None:
        """Let the current response say that the connection closes, unless it has started."""
        if self.cycle is not None and not self.cycle.is_started:
            self.cycle.keeps_alive = False

    # ---------------------------------------------------------------------------------------------------------- reading

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        if self._body is not None:
            data = self._feed(self._body, data)
            if not data:
                return
        self._unread = self._unread + data if self._unread else data
        if self._is_at_rest():
            self._read_next()
        elif len(self._unread) > HIGH_WATER_BYTES:
            self.pause_reading()

    def _is_at_rest(self) -> bool:
        """Whether the next bytes belong to a request that would be served at once."""
        return self.cycle is None and self._body is None and not self._is_ended

    def _is_owed_response(self) -> bool:
        """Whether a request has come that was not answered yet."""
        return self.cycle is not None

    def _read_next(self) -> None:
        """Serve the next request if its head is complete. Otherwise see to it that the rest of it comes in time, and is not too large."""
        if self._unread[:1] not in _LINE_ENDS or self._skip_empty_lines():
            self._read_head()

    def _read_head(self) -> None:
        unread = self._unread
        end = unread.find(_END, max(self._searched - 3, 0))
        if end < 0 or end > self.max_head_bytes:
            self._await_head()
            return
        try:
            head = parse_head(unread[:end])
        except RefusedRequest as error:
            self._refuse(error)
            return
        self._unread = unread[end + 4 :]
        self._searched = self._blank_bytes = 0
        self._stop_timer()
        self._serve(head)

    def _skip_empty_lines(self) -> bool:
        """Skip empty lines before a request, as RFC 9112 section 2.2 asks for. Returns False when they are refused."""
        rest = self._unread.lstrip(b"\r\n")
        empty = self._unread[: len(self._unread) - len(rest)]
        if not rest and empty[-1:] == b"\r":  # half of a line end
            empty, rest = empty[:-1], b"\r"
        self._unread = rest
        self._searched = 0
        self._blank_bytes += len(empty)
        if empty.replace(b"\r\n", b""):
            self._refuse(MalformedRequest("not a valid HTTP/1.1 request: a line does not end with CR LF"))
            return False
        return True

    def _await_head(self) -> None:
        """The head is incomplete or too large. Faults in what has come are refused at once: the rest might never come."""
        unread, limit = self._unread, self.max_head_bytes
        try:
            check_beginning(unread[:limit], self._searched)
        except RefusedRequest as error:
            self._refuse(error)
            return
        if self._blank_bytes + len(unread) > limit:
            self._refuse(_too_large(unread, limit))
            return
        self._searched = len(unread)
        if self._is_eof:
            self._end_of_input()
        elif self._timer is None:
            self._timer = self._loop.call_later(self.head_timeout_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._refuse(
            HeadTimeout(f"the request line and header fields were not complete within {self.head_timeout_s:g} s; send them faster")
        )

    def _feed(self, body: Body, data: bytes) -> bytes:
        """Pass `data` on as far as it belongs to the body. Returns what is behind it."""
        try:
            content, rest = body.feed(data)
        except MalformedRequest as error:
            self._refuse(error)
            return b""
        if body.is_complete:
            self._body = None
        if self.cycle is not None:
            self.cycle.feed(content, is_last=body.is_complete)
        return rest

    # ---------------------------------------------------------------------------------------------------------- serving

    def _serve(self, head: Head) -> None:
        """Have the application answer a request whose head has been read. Of the protocols that a client may offer, WebSocket is taken up if it is
        configured; every other offer is ignored."""
        if head.offers_websocket and self._config.ws_protocol_class is not None and head.keeps_alive and not self._is_eof:
            self._switch_to_websocket(head, self._config.ws_protocol_class)
            return
        path = head.target.decode()
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "root_path": "",
            "method": head.method,
            "path": unquote(path) if "%" in path else path,
            "raw_path": head.target,
            "query_string": head.query,
            "headers": head.fields,
            "state": self._app_state.copy(),
        }
        if self._extensions is not None:
            scope["extensions"] = self._extensions
        cycle = self.cycle = Cycle(self, scope, head)
        if head.length:
            self._begin_body(head.length)
            if self._is_ended:
                return
        if self._is_eof:
            self._watch_half_closed()
        task = self._loop.create_task(cycle.run(self._app if path != "*" else _answer_for_server))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _switch_to_websocket(self, head: Head, protocol_class: type[asyncio.Protocol]) -> None:
        """Hand the connection over to uvicorn's WebSocket protocol, together with the request and what has come behind it."""
        protocol = protocol_class(config=self._config, server_state=self._server_state, app_state=self._app_state)  # type: ignore[call-arg]
        target = head.target + b"?" + head.query if head.query else head.target
        lines = b"".join([b"%b: %b\r\n" % field for field in head.fields])
        rest = self._unread
        self._transport.set_protocol(protocol)
        self.connection_lost(None)  # for this protocol it ends here
        self.resume_reading()
        protocol.connection_made(self._transport)
        protocol.data_received(b"GET %b HTTP/1.1\r\n%b\r\n%b" % (target, lines, rest))

    def _begin_body(self, length: int) -> None:
        """Read as much of a request's body as has come. It may be refused."""
        body = self._body = ChunkedBody() if length == CHUNKED else SizedBody(length)
        data, self._unread = self._unread, b""
        if data:
            self._unread = self._feed(body, data)
        if self._body is not None and self._is_eof:
            self._end_of_input()

    def end_response(self) -> None:
        """The response is complete: serve the next request, or close."""
        cycle, self.cycle = self.cycle, None
        assert cycle is not None
        self._server_state.total_requests += 1
        if not cycle.keeps_alive:
            self._close()
            return
        self._rest()
        if self._unread or self._is_eof:
            self._go_on()

    def _rest(self) -> None:
        """A request has been answered, and the connection stays open."""
        before = self._idle_until
        self._idle_until = self._loop.time() + self._idle_s
        if self._idle_timer is None or self._idle_until < before:
            self._set_idle_timer()
        self.resume_reading()

    def _set_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self._loop.call_at(self._idle_until, self._check_idle)

    def _go_on(self) -> None:
        """Read what has come behind the last request."""
        if not self._is_at_rest():
            return
        if self._unread:
            self._read_next()
            self.resume_reading()
        else:
            self._end_of_input()

    def _check_idle(self) -> None:
        """Close a connection without a request. One timer serves many requests: it starts again for what is left."""
        self._idle_timer = None
        if self._is_owed_response() or self._timer is not None:
            return  # the next response starts it again
        if self._loop.time() < self._idle_until:
            self._set_idle_timer()
        else:
            self._finish()

    # ----------------------------------------------------------------------------------------------------- half-closed

    def _watch_half_closed(self) -> None:
        """Find out whether a client that sends no more is still there: send what can be sent already, and look for a reset."""
        cycle = self.cycle
        if cycle is not None and cycle.is_started:
            if cycle.is_chunked:
                self.write(b"0")  # the size of the next chunk may begin with zeros
        elif not self._is_version_sent:
            self.write(VERSION)
            self._is_version_sent = True
        # A client that goes later is noticed only by the system's probes while the application sends nothing.
        client = self._transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's setting holds
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        self._timer = self._loop.call_later(_RESET_POLL_S, self._look_for_reset)

    def _look_for_reset(self) -> None:
        self._timer = None
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._disconnect()
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(_RESET_POLL_S, self._look_for_reset)

    def _disconnect(self) -> None:
        """Tell the application that its client has gone."""
        cycle, self.cycle = self.cycle, None
        if cycle is not None:
            cycle.disconnect()
            self._drained.set()  # nothing of it is sent any more

    # --------------------------------------------------------------------------------------------------------- refusing

    def _refuse(self, error: RefusedRequest) -> None:
        """Report what is no request, and answer with the problem."""
        request_id = trace.read({}).request_id
        observe = type(self).observe
        if observe is not None:
            observe(Refusal(error.code, error.status, error.detail, request_id.decode(), self._client))
        self._answer_last(problems.of_request(error, request_id))

    def _end_of_input(self) -> None:
        """The client sends no more, amid a request or between two. Nothing is reported: as a rule it has gone."""
        if self._body is not None or self._unread.strip(b"\r"):  # half of an empty line is no request
            error = MalformedRequest("the connection was shut down before the request was complete")
            self._answer_last(problems.of_request(error, trace.read({}).request_id))
        else:
            self._close()

    def _answer_last(self, problem: problems.ProblemResponse) -> None:
        """Send `problem` in place of the current response, unless that has started, and close."""
        cycle = self.cycle
        if cycle is None:
            is_late = self._body is not None  # of a request that was answered before its body came
            is_head = self._unread.startswith(b"HEAD ")
        else:
            is_late = cycle.is_started
            is_head = cycle.scope["method"] == "HEAD"
        self._disconnect()
        if is_late:
            self._finish()
        else:
            self.write_head(as_response(problem, self.default_fields, is_head=is_head))
            self._close()

    def _close(self) -> None:
        """Close behind the last response: once the client has closed, or has had time to read."""
        self._is_ended = True
        self._unread = b""
        self._stop_timer()
        if self._is_eof or not self._transport.can_write_eof():
            self._finish()
            return
        self.resume_reading()
        self._transport.write_eof()
        self._timer = self._loop.call_later(_LINGER_S, self._finish)

    def _finish(self) -> None:
        """Close behind what was written. A client that does not read it in time loses it."""
        self._is_ended = True
        self._unread = b""
        self._stop_timer()
        self._watch_stall()
        self._transport.close()

    def _watch_stall(self, before: int | None = None) -> None:
        """Give up when the client has read nothing for a while of what waits for it. `before`: how many bytes waited then."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._stall_timer = None
        if not self._transport.get_write_buffer_size():
            return
        waiting = self._waiting_bytes()
        if before is not None and waiting >= before:
            self._transport.abort()
        else:
            self._stall_timer = self._loop.call_later(self.stall_s, self._watch_stall, waiting)

    def _waiting_bytes(self) -> int:
        """What the client has not taken yet. The system's part counts: it holds megabytes, and takes more only when a third of them is gone."""
        held = bytearray(4)
        with suppress(OSError):  # not Linux
            ioctl(self._transport.get_extra_info("socket").fileno(), TIOCOUTQ, held)
        return self._transport.get_write_buffer_size() + int.from_bytes(held, sys.byteorder)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---------------------------------------------------------------------------------------------------------- writing

    @property
    def default_fields(self) -> Fields:
        """Fields of every response: Date, and `Connection: close` during a drain."""
        return self._server_state.default_headers

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def write_head(self, head: bytes) -> None:
        """Write the head of a response, without what has been sent of it already."""
        if self._is_version_sent:
            self._is_version_sent = False
            head = head[len(VERSION) :]
        self.write(head)

    def abandon(self, *, is_reset: bool) -> None:
        """The response cannot be completed. `is_reset`: its length was to be told by the close, so that only a reset shows the fault."""
        self._disconnect()
        self._is_ended = True
        if is_reset or self._is_eof:  # half-closed: a lone "0" may have been sent, which some clients take for the last chunk
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self._transport.abort()
        else:
            self._finish()

    def pause_reading(self) -> None:
        if not self._is_read_paused and not self._is_eof:
            self._is_read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_read_paused and (self._is_at_rest() or self._is_ended or len(self._unread) <= HIGH_WATER_BYTES):
            self._is_read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._drained.clear()
        self._watch_stall()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._drained.set()
        if self._stall_timer is not None and not self._is_ended:
            self._stall_timer.cancel()
            self._stall_timer = None

    async def drain(self) -> None:
        await self._drained.wait()


def observed(observe: RefusalObserver | None) -> type[BoundedProtocol]:
    """The protocol, with `observe` called for each refusal."""
    return type("ObservedProtocol", (BoundedProtocol,), {"observe": None if observe is None else staticmethod(observe)})


def _extensions_of(transport: asyncio.Transport) -> dict[str, Any] | None:
    """What a request's scope says of the client's certificate, beside the chain of the ASGI extension for TLS; None when the client has none."""
    connection = transport.get_extra_info("ssl_object")
    details = None if connection is None else connection.getpeercert()
    if not details:
        return None
    der = connection.getpeercert(binary_form=True)
    return {"tls": {CERTIFICATE: ClientCertificate.of(details, der), "client_cert_chain": (DER_cert_to_PEM_cert(der),)}}


async def _answer_for_server(_scope: Scope, _receive: Receive, send: Send) -> None:
    """OPTIONS * asks for the server as a whole (RFC 9110 section 9.3.7). A body has no meaning."""
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", _METHODS)]})
    await send({"type": "http.response.body"})


def _too_large(unread: bytes, limit: int) -> RefusedRequest:
    if unread and b"\r\n" not in unread[:limit]:
        return TargetTooLong(f"the request line has more than {limit} bytes; put large values in the body")
    return HeadTooLarge(f"the request line and header fields have more than {limit} bytes; send fewer or smaller fields")


def _address(address: object) -> tuple[str, int] | None:
    """Host and port of an Internet address; None for others."""
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) and len(address) >= 2 else None
