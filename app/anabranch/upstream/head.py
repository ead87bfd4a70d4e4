"""Reads the head of a response as it arrives: limits its size, skips interim responses, and validates the fields that frame the body.

A base class of the connection rather than a part of it, because an extra call for each request or chunk would be noticeable. llhttp
enforces the grammar. This module handles neither sockets nor bodies.

**Source:** RFC 9112 sections 2 to 7 and 11, RFC 9110 sections 6.4 and 15.2.
"""

from typing import Final

from httptools import HttpResponseParser

from anabranch.errors import ProtocolError, ResponseTooLarge, UpstreamError

# Bytes of status line and fields. Servers allow 8 to 16 KiB, a few proxies 64 KiB; more is a mistake or an attack.
MAX_HEAD: Final = 64 * 1024
# Number of fields. Common limits are 100 (Apache, Node) to 1,000; each field costs one or two Python objects.
MAX_FIELDS: Final = 256
# 1xx responses before the final one (RFC 9110 section 15.2 sets no limit): 100, 102 and 103 with some repetition.
MAX_INTERIM: Final = 16

END: Final = b"\r\n\r\n"
_VERSION: Final = b"HTTP/1."
_SPECIAL: Final = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})


class Stop(Exception):
    """Raised inside a parser callback to stop the parser; never leaves the connection."""


class HeadReader:
    """`failure`: why reading stopped. `coding`: Content-Encoding of the last response, b"" for none.

    The connection resets all attributes for each exchange, except `_limit` (maximum bytes of a body). `_wire_size`: length of the final head
    on the wire, 0 until it is complete. `_received`: bytes of the final response so far. `_status`: 0 until the final head is complete.
    `_length`: of the body by Content-Length, -1 without one.
    """

    __slots__ = (
        "_buffer", "_fields", "_interim", "_is_chunked", "_is_complete", "_is_head", "_is_http_11", "_is_reusable", "_is_until_close", "_length",
        "_limit", "_parser", "_received", "_status", "_wire_size", "coding", "failure",
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
    _length: int
    _limit: int
    _parser: HttpResponseParser | None
    _received: int
    _status: int
    _wire_size: int
    coding: bytes
    failure: UpstreamError | None

    def _read_head(self, data: bytes, parser: HttpResponseParser) -> bytes:
        """Enforce the limits of the head and skip interim responses. Returns the bytes still to parse; b"" while the head is incomplete.

        Stores the length of the final head in `_wire_size`. Incomplete heads are parsed as they arrive, so that invalid data fails at once.
        """
        while True:
            head: bytes | bytearray
            start = 0
            if self._buffer is None:
                head = data
            else:
                start = len(self._buffer)
                self._buffer += data
                head = self._buffer
            if not head.startswith(_VERSION) and not (len(head) < len(_VERSION) and _VERSION.startswith(head)):
                raise self._broken("it does not begin with an HTTP/1 status line")
            size = head.find(END, max(start - 3, 0)) + 4
            if size > MAX_HEAD or (size < 4 and len(head) > MAX_HEAD):
                raise self._broken(f"the head is larger than {MAX_HEAD} bytes")
            if size < 4:
                if self._buffer is None:
                    self._buffer = bytearray(data)
                parser.feed_data(data)
                return b""
            if head[9] != 0x31:
                self._wire_size = size
                self._received = len(head)
                self._is_http_11 = head[7] == 0x31
                return data
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise self._broken(f"more than {MAX_INTERIM} interim responses")
            if head[9:12] == b"101":
                raise self._broken("it switches to another protocol, which was not requested")
            parser.feed_data(data[: size - start])
            self._fields.clear()
            self._buffer = None
            data = data[size - start :]
            if not data:
                return b""

    def _broken(self, why: str) -> Stop:
        self.failure = ProtocolError(f"the service sent an unacceptable HTTP response: {why}", may_be_processed=True)
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
            if status < 100:
                raise self._broken("a status below 100")
            # The fields of an interim response do not apply to the final one.
            self._length = -1
            self._is_chunked = False
            self.coding = b""
            return
        self._status = status
        self._is_reusable = self._is_http_11 and parser.should_keep_alive()
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
            self._too_large()
        else:
            self._is_until_close = self._length < 0

    def _too_large(self) -> None:
        self.failure = ResponseTooLarge(f"the response is larger than {self._limit} bytes", may_be_processed=True)
        raise Stop
