"""Finds where the body of a request ends, and takes its framing off. Pure: bytes in, content and the bytes behind the body out.

**Source:** RFC 9112 sections 6.2 and 7.1.
"""

import re
from typing import Final, Protocol

from anabranch.errors import MalformedRequest
from anabranch.server.http1.head import TEXT, TOKEN

_MAX_LINE_BYTES: Final = 16 * 1024
"""Longest line with a chunk's size and extensions, and longest trailer field."""
_MAX_EXTRA_BYTES: Final = 64 * 1024
"""Most bytes of all chunk extensions together, and of all trailer fields."""
_MAX_DIGITS: Final = 15
_SIZE: Final = re.compile(rb"0*([0-9A-Fa-f]*)")
_EXTENSIONS: Final = re.compile(
    rb"""(?:[ \t]*+;[ \t]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++(?:[ \t]*+=[ \t]*+(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++|"""
    rb""""(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"))?+)*+"""
)


class Body(Protocol):
    """A body that is being received. `is_complete`: its last byte has been fed."""

    is_complete: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes the next bytes of the connection. Returns the content among them, and the bytes behind the body's end.

        Raises MalformedRequest; after that nothing may be fed.
        """
        ...


class SizedBody:
    """A body of `length` bytes, more than none."""

    __slots__ = ("_left", "is_complete")

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data, b""
        self.is_complete = True
        return data[:left], data[left:]


class ChunkedBody:
    """A body in chunks. Extensions and trailer fields are checked and dropped: nothing here has a use for them."""

    __slots__ = ("_extra_bytes", "_is_in_trailers", "_left", "_line", "is_complete")

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the current chunk that are still to come, the CR LF behind its data included. 0: a line is next."""
        self._line = b""
        """The beginning of a line that is not whole yet."""
        self._extra_bytes = 0
        self._is_in_trailers = False
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        pieces: list[bytes] = []
        at = 0
        if self._line:
            data = self._line + data
            self._line = b""
        while at < len(data):
            if self._left:
                at = self._feed_chunk(data, at, pieces)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._keep_line(data[at:])
                break
            line = data[at:end]
            at = end + 1
            if line[-1:] != b"\r":
                raise _malformed("a line does not end with CR LF")
            if len(line) > _MAX_LINE_BYTES:
                raise _malformed("a line is too long")
            if self._feed_line(line[:-1]):
                self.is_complete = True
                return b"".join(pieces), data[at:]
        return b"".join(pieces), b""

    def _feed_chunk(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take what there is of the current chunk's data, and of the CR LF behind it. Returns the position behind."""
        if self._left > 2:
            piece = data[at : at + self._left - 2]
            pieces.append(piece)
            self._left -= len(piece)
            at += len(piece)
        if self._left <= 2:
            ending = data[at : at + self._left]
            if ending != b"\r\n"[2 - self._left : 2 - self._left + len(ending)]:
                raise _malformed("a chunk is longer than its size")
            self._left -= len(ending)
            at += len(ending)
        return at

    def _feed_line(self, line: bytes) -> bool:
        """A whole line: a chunk's size, a trailer field, or the empty line that ends the body. True for the last."""
        if self._is_in_trailers:
            if not line:
                return True
            self._count_extra(len(line))
            name, colon, value = line.partition(b":")
            if not colon or not name or name.translate(None, TOKEN) or value.translate(None, TEXT):
                raise _malformed("a trailer field is not valid")
            return False
        found = _SIZE.match(line)
        assert found is not None
        digits, extensions = found[1], line[found.end() :]
        if not found.end() or len(digits) > _MAX_DIGITS:
            raise _malformed("the size of a chunk is not a hexadecimal number, or is too large")
        if extensions:
            self._count_extra(len(extensions))
            if _EXTENSIONS.fullmatch(extensions) is None:
                raise _malformed("what follows the size of a chunk is no extension")
        if digits:
            self._left = int(digits, 16) + 2
        else:
            self._is_in_trailers = True
        return False

    def _keep_line(self, line: bytes) -> None:
        if len(line) > _MAX_LINE_BYTES:
            raise _malformed("a line is too long")
        if b"\r" in line[:-1]:
            raise _malformed("a line does not end with CR LF")
        self._line = line

    def _count_extra(self, size: int) -> None:
        self._extra_bytes += size
        if self._extra_bytes > _MAX_EXTRA_BYTES:
            raise _malformed("its extensions and trailer fields are too large")


def _malformed(reason: str) -> MalformedRequest:
    return MalformedRequest(f"not a valid chunked body: {reason}")
