"""Reads HTTP/1.1 responses for the stock pool before its own parser does, so that both transports accept and refuse the same.

h11 is more lenient than `anabranch.upstream.message` in some places, stricter in others, and would take bytes that follow a response for the
next one. It therefore never sees what the service has written, but the same message written out once more.
"""

import sys

from anabranch.upstream.head import Stop
from anabranch.upstream.message import MessageReader


class ResponseCheck(MessageReader):
    """One connection of the stock pool. Call `begin` for each request, then `feed` with what is received.

    `has_head`: the final head is complete. `is_complete`: the response is. `is_reusable`: nothing speaks against another request.
    """

    __slots__ = ("_is_connect", "_parts")

    def __init__(self) -> None:
        self._limit = sys.maxsize  # the transport counts
        self.failure = None
        self.keep_alive = None
        self._is_connect = False
        self._parts: list[bytes] = []
        self._new_parser()
        self._begin(False)

    @property
    def has_head(self) -> bool:
        return self._status != 0

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    @property
    def is_reusable(self) -> bool:
        return self._is_complete and self._is_reusable and self._is_clean()

    def begin(self, request: bytes) -> None:
        """Expect the response to a request that begins with these bytes."""
        method = request.partition(b" ")[0]
        if self._is_head:
            self._new_parser()  # the old one was stopped inside a message
        self._is_connect = method == b"CONNECT"
        self._begin(method == b"HEAD")

    def feed(self, data: bytes) -> bytes:
        """Check further bytes. Returns what is new of the message; b"" for nothing yet. Raises UpstreamError if it cannot be accepted."""
        had_head = self.has_head
        was_complete = self._is_complete
        error = self._consume(data)
        if error is not None:
            raise error
        written = [] if had_head or not self.has_head else [self._head()]
        if self._is_chunked:
            written += (b"%x\r\n%b\r\n" % (len(part), part) for part in self._parts)
            if self._is_complete and not was_complete:
                written.append(b"0\r\n\r\n")
        else:
            written += self._parts
        self._parts.clear()
        return b"".join(written)

    def _head(self) -> bytes:
        lines = [b"HTTP/1.%d %d " % (self._is_http_11, self._status)]
        for name, value in self._fields:
            lines.append(b"%b: %b" % (name, b"%d" % self._length if name == b"content-length" and self._length > 0 else value))
        return b"\r\n".join([*lines, b"", b""])

    # ------------------------------------------------------------------------------------------------- parser callbacks

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._is_connect and 200 <= self._status < 300:
            # RFC 9110 section 9.3.6: what follows belongs to the tunnel.
            self._length = 0
            self._is_complete = True
            raise Stop

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        self._parts.append(data)
