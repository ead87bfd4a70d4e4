"""uvicorn's HTTP protocol with bounds for what comes before a request is one: the size of its head, and the time that it takes.

uvicorn has neither bound: a client that sends a head without an end, or byte by byte, would hold memory and a connection for ever. Bodies and
everything later have bounds of their own. A request whose head comes in one piece, as nearly all do, starts no timer here.

**Source:** RFC 9110 section 15.5.9 (408), RFC 6585 section 5 (431).
"""

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE: Final = b"431 Request Header Fields Too Large"
_TOO_SLOW: Final = b"408 Request Timeout"


class BoundedProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. Refuses with 431 and 408, and closes.

    `max_head_bytes`: largest head; what came with the last piece of it may be more. `head_timeout_s`: from the first bytes of a head
    to its end. A connection without any bytes is closed after the keep-alive timeout, like one between two requests.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_in_head = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        idle_s = max(self.timeout_keep_alive, self.head_timeout_s)
        self.timeout_keep_alive_task = self.loop.call_later(idle_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head or self._is_between():
            self._head_bytes += len(data)
            if self.transport.is_closing():
                return
            if self._head_bytes > self.max_head_bytes:
                self._refuse(_TOO_LARGE)
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_timeout_s, self._expire)

    def on_message_begin(self) -> None:
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._stop_timer()
        super().on_headers_complete()

    def _is_between(self) -> bool:
        """Whether no request is being received or answered. Line ends may come here, which are no request yet (RFC 9112 section 2.2)."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _expire(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:  # the head of a next request, while this one is answered
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._expire)
        elif not self.transport.is_closing():
            self._refuse(_TOO_SLOW)

    def _refuse(self, status: bytes) -> None:
        self._stop_timer()
        if self.cycle is None or self.cycle.response_complete:  # else it would come amid another answer
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
