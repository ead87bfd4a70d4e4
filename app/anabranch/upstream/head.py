"""Reads the head of a response as it arrives: limits its size, skips interim responses, and validates the fields that frame the body.

llhttp enforces the grammar. This module handles neither sockets nor bodies.

**Source:** RFC 9112 sections 2 to 7 and 11, RFC 9110 sections 6.4 and 15.2.
"""

from typing import Final

from httptools import HttpResponseParser

from anabranch.errors import ProtocolError, ResponseTooLarge, UpstreamError
from anabranch.upstream.keep_alive import KeepAlive

# Bytes of status line and fields. Servers allow 8 to 16 KiB, a few proxies 64 KiB; more is a mistake or an attack.
MAX_HEAD: Final = 64 * 1024
# Number of fields. Common limits are 100 (Apache) to 2,000 (Node); each field costs one or two Python objects.
MAX_FIELDS: Final = 1000
# 1xx responses before the final one (RFC 9110 section 15.2 sets no limit): some services send a 102 every second while they work.
MAX_INTERIM: Final = 100

END: Final = b"\r\n\r\n"
_VERSION: Final = b"HTTP/1."
_MINOR: Final = b"01"
_SHORTEST: Final = len("HTTP/1.1 200\n\n")
_SPECIAL: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding", b"keep-alive"})


class Stop(Exception):
    """Raised inside a parser callback to stop the parser; never leaves the reader."""


class HeadReader:
    """`failure`: why reading stopped. `coding`: Content-Encoding of the last response, b"" for none. `keep_alive`: what the service has said
    last about this connection; None: nothing.

    `MessageReader` resets the attributes for each response, except `_limit` (maximum bytes of a body). `_wire_size`: length of the final head
    on the wire, 0 until it is complete. `_received`: bytes of the final response so far. `_status`: 0 until the final head is complete.
    `_length`: of the body by Content-Length, -1 without one.
    """

    __slots__ = (
        "_buffer", "_fields", "_interim", "_is_chunked", "_is_complete", "_is_head", "_is_http_11", "_is_reusable", "_is_until_close",
        "_keep_alive", "_length", "_limit", "_parser", "_received", "_status", "_wire_size", "coding", "failure", "keep_alive",
    )  # fmt: skip

    _buffer: bytearray | None
    _fields: list[tuple[bytes, bytes]]
    _interim: int
    _is_chunked: bool
    _is_complete: bool
    _is_head: bool
    _is_http_11: bool
    _is_reusable: bool
    _is_until_close: bool
    _keep_alive: bytes
    _length: int
    _limit: int
    _parser: HttpResponseParser | None
    _received: int
    _status: int
    _wire_size: int
    coding: bytes
    failure: UpstreamError | None
    keep_alive: KeepAlive | None

    def _read_head(self, data: bytes) -> bytes:
        """Collect the final head, within its limits, and skip interim responses.

        Returns the head and what came with it; b"" while it is incomplete. Stores its length in `_wire_size`.
        """
        while True:
            head: bytes | bytearray
            start = 0
            if self._buffer is None:
                head = data
            else:
                start = max(len(self._buffer) - 3, 0)
                self._buffer += data
                head = self._buffer
            if not head.startswith(_VERSION) and not (len(head) < len(_VERSION) and _VERSION.startswith(head)):
                raise self._broken("it does not begin with an HTTP/1 status line")
            size = head.find(END, start) + 4
            if size < 4 or size > MAX_HEAD:
                size = self._bare_end(head, start)
                if not size:
                    if self._buffer is None:
                        self._buffer = bytearray(data)
                    return b""
            if head[9] != 0x31:
                self._wire_size = size
                self._received = len(head)
                self._is_http_11 = head[7] == 0x31
                if self._buffer is not None:
                    data, self._buffer = bytes(head), None
                return data
            self._skip_interim(head)
            data, self._buffer = bytes(head[size:]), None
            if not data:
                return b""

    def _bare_end(self, head: bytes | bytearray, start: int) -> int:
        """The size of a head whose lines end with LF alone; 0 while it is incomplete, whatever its lines end with."""
        newline = head.find(b"\n")
        is_bare = newline > 0 and head[newline - 1] != 0x0D
        found = head.find(b"\n\n", start)
        if found >= 0 and not is_bare:
            raise self._broken("its lines end in different ways")
        size = found + 2 if found >= 0 else 0
        if size > MAX_HEAD or (not size and len(head) > MAX_HEAD):
            raise self._broken(f"its head is larger than {MAX_HEAD} bytes")
        if 0 < size < _SHORTEST:
            raise self._broken("it does not begin with an HTTP/1 status line")
        return size

    def _skip_interim(self, head: bytes | bytearray) -> None:
        """Check the status line of a 1xx response. It has no body, and its fields are not used."""
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise self._broken(f"more than {MAX_INTERIM} interim responses")
        if head[7] not in _MINOR or head[8] != 0x20 or not head[9:12].isdigit() or head[12] not in b" \r\n":
            raise self._broken("it does not begin with an HTTP/1 status line")
        if head[9:12] == b"101":
            raise self._broken("it switches to another protocol, which was not requested")

    def _broken(self, why: str) -> Stop:
        self.failure = ProtocolError(f"the service sent an unacceptable HTTP response: {why}", may_be_processed=True)
        return Stop()

    def _too_large(self) -> Stop:
        self.failure = ResponseTooLarge(f"the response is larger than {self._limit} bytes", may_be_processed=True)
        return Stop()

    # ------------------------------------------------------------------------------------------------- parser callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status:
            return  # a trailer: RFC 9110 section 6.5.1 allows dropping it, and it must not change the framing
        name = name.lower()
        if name in _SPECIAL:
            self._special(name, value.strip())
        self._fields.append((name, value.rstrip()))

    def _special(self, name: bytes, value: bytes) -> None:
        # llhttp rejects two lengths, a length that is not a number, and a length together with a transfer coding.
        if name == b"content-length":
            self._length = int(value)
        elif name == b"content-encoding":
            self.coding = self.coding + b"," + value if self.coding else value
        elif name == b"keep-alive":
            self._keep_alive = self._keep_alive + b"," + value if self._keep_alive else value
        elif self._is_chunked or value.lower() != b"chunked":
            raise self._broken("a transfer coding other than chunked")
        else:
            self._is_chunked = True

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if len(self._fields) > MAX_FIELDS:
            raise self._broken(f"more than {MAX_FIELDS} header fields")
        if status < 200:
            raise self._broken("a status below 100")
        self._status = status
        self._is_reusable = self._is_http_11 and parser.should_keep_alive()
        if self._keep_alive:
            self.keep_alive = KeepAlive.parse(self._keep_alive)
        if self._is_head or status in {204, 304}:
            # RFC 9112 section 6.3, rule 1: no body, whatever the fields say. llhttp applies this to the two statuses but not to HEAD.
            self._length = 0
            self._is_chunked = False
            if self._is_head:
                self._is_complete = True
                raise Stop
        elif self._is_chunked:
            if not self._is_http_11:
                raise self._broken("a transfer coding in HTTP/1.0")
        elif self._length > self._limit:
            raise self._too_large()
        else:
            self._is_until_close = self._length < 0
