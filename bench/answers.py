"""Checks status and length of HTTP/1.1 responses in a stream of bytes, as cheaply as possible.

For the load generator only: it trusts the server's framing (one response at a time, no pipelining) and discards the bodies.
"""

from typing import Literal

Verdict = Literal["", "status", "length", "framing"]


class Chunks:
    """Counts the bytes of a chunked body (RFC 9112 section 7.1)."""

    __slots__ = ("_is_last", "_left", "_line", "length")

    def __init__(self) -> None:
        self.length = 0
        self._is_last = False
        self._left = 0  # of the chunk's data and its CRLF
        self._line = b""

    def feed(self, data: bytes) -> bool:
        """Process more of the body. True when the body is complete. Raises ValueError for an invalid chunk."""
        position = 0
        while position < len(data):
            if self._left:
                taken = min(self._left, len(data) - position)
                self._left -= taken
                position += taken
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                return False
            line, self._line = (self._line + data[position:end]).strip(), b""
            position = end + 1
            if self._is_last:
                if not line:  # the end of the trailers
                    return True
                continue
            size = int(line.partition(b";")[0], 16)
            self._is_last = size == 0
            self.length += size
            self._left = size + 2 if size else 0
        return False


class Answers:
    """The responses of one connection. `expected_bytes`: required length of every body, None for any. `status`: of every correct response."""

    __slots__ = ("_chunks", "_expected", "_head", "_left", "_length", "_status", "_status_is_ok")

    def __init__(self, expected_bytes: int | None, status: int = 200) -> None:
        self._expected = expected_bytes
        self._status = b"%d" % status
        self._head = b""
        self._left = -1  # of the body; negative while waiting for a head
        self._length = 0
        self._status_is_ok = False
        self._chunks: Chunks | None = None

    def feed(self, data: bytes) -> Verdict | None:
        """Process received bytes. None while the response is incomplete; then "" when it is correct, or the kind of fault."""
        if self._chunks is not None:
            return self._feed_chunks(data)
        if self._left >= 0:
            self._left -= len(data)
        else:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return None
            self._head = b""
            head = data[: end + 2].lower()
            self._status_is_ok = head[head.find(b" ") + 1 :].startswith(self._status)
            at = head.find(b"\r\ncontent-length:")
            if at < 0:
                self._chunks = Chunks()
                return self._feed_chunks(data[end + 4 :])
            self._length = int(head[at + 17 : head.find(b"\r", at + 17)])
            self._left = self._length - (len(data) - end - 4)
        if self._left > 0:
            return None
        is_whole = self._left == 0
        self._left = -1
        return self._judge() if is_whole else "framing"

    def _feed_chunks(self, data: bytes) -> Verdict | None:
        assert self._chunks is not None
        try:
            if not self._chunks.feed(data):
                return None
        except ValueError:
            return "framing"
        self._length, self._chunks = self._chunks.length, None
        return self._judge()

    def _judge(self) -> Verdict:
        if not self._status_is_ok:
            return "status"
        return "" if self._expected is None or self._length == self._expected else "length"
