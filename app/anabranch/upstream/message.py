"""Reads responses from bytes, one after another on a connection: where exactly each one ends, and whether anything follows it.

Both transports read HTTP/1.1 by this class, so both accept and refuse the same. A base class of what uses it rather than a part of it,
because an extra call for each request or chunk would be noticeable. Handles no sockets, and keeps nothing of a body.

**Source:** RFC 9112 sections 2 to 9 and 11.
"""

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from anabranch.errors import ProtocolError, UpstreamError
from anabranch.upstream.head import END, MAX_HEAD, HeadReader, Stop
from anabranch.upstream.tidy import tidied

# Bytes allowed for chunk sizes, extensions and trailers: this many for each byte of the body, plus a constant. One-byte chunks take six.
OVERHEAD_RATIO: Final = 8
OVERHEAD: Final = 2 * MAX_HEAD


class MessageReader(HeadReader):
    """`_body_size`: bytes of the body so far, without its framing. Subclasses define `on_body`, which adds to it."""

    __slots__ = ("_body_size", "_tail")

    def _new_parser(self) -> HttpResponseParser:
        parser = self._parser = HttpResponseParser(self)
        # Some services pad chunk sizes with spaces to a fixed width; curl and Go take that too.
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def _begin(self, is_head: bool) -> None:
        """Expect a new response. `is_head`: to a HEAD request."""
        self._buffer = None
        self._fields = []
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
        self._tail = b""
        self._keep_alive = b""
        self.coding = b""

    def _consume(self, data: bytes) -> UpstreamError | None:
        """Read further bytes. Returns why the response cannot be accepted."""
        self._received += len(data)
        parser = self._parser
        assert parser is not None
        try:
            if self._wire_size:
                parser.feed_data(data)
            else:
                data = self._read_head(data)
                if not data:
                    return None
                try:
                    parser.feed_data(data)
                except HttpParserError:
                    if self._status or self.failure is not None or not self._feed_tidied(data):
                        raise
        except (HttpParserError, HttpParserUpgrade, Stop) as error:
            if not self._is_complete:
                return self.failure or ProtocolError(f"the service sent invalid HTTP: {_reason(error)}", may_be_processed=True)
            # Bytes after the response are ignored, but the connection must not be reused.
            self._is_reusable = self._is_reusable and self._is_head
        if self._is_chunked:
            self._tail = (self._tail + data[-5:])[-5:]
            if self._received > OVERHEAD_RATIO * self._body_size + OVERHEAD:
                return ProtocolError("the chunk framing of the response is much larger than its body", may_be_processed=True)
        return None

    def _feed_tidied(self, data: bytes) -> bool:
        """Read a final head that the parser has rejected once more, repaired. Returns False if it cannot be repaired.

        The connection is not used again: who writes such heads may have other habits.
        """
        found = tidied(data)
        if found is None:
            return False
        head, size = found
        self._fields = []
        self._length = -1
        self._is_chunked = False
        self._keep_alive = b""
        self.coding = b""
        self._wire_size = size
        try:
            self._new_parser().feed_data(head + data[size:])
        finally:
            self._is_reusable = False
        return True

    def _is_clean(self) -> bool:
        """Whether nothing has arrived behind the complete response."""
        if not self._is_chunked:
            return self._received == self._wire_size + self._length
        # The last chunk ends with `0...CRLF CRLF` and nothing follows. llhttp skips empty lines, so check for them here.
        return self._tail.endswith(END) and len(self._tail) == 5 and self._tail[0] != 0x0A

    # ------------------------------------------------------------------------------------------------- parser callbacks

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise Stop

    def on_message_complete(self) -> None:
        self._is_complete = self._status != 0


def _reason(error: Exception) -> str:
    return str(error.args[0]).lower() if isinstance(error, HttpParserError) and error.args else "an unexpected message"
