"""Undoes the content codings of responses: gzip, deflate, br, zstd and lists of them, for whole bodies and for bodies as they come.

Every transport uses this decoder. A decompression bomb takes no more memory than the limit, and a streamed body no more than one piece.

**Source:** RFC 9110 section 8.4, RFC 1950 to 1952, RFC 7932, RFC 8878 and RFC 9659.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

import brotli

from anabranch.errors import ProtocolError, ResponseTooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Real responses have at most two codings; each further one multiplies the CPU time that a bomb can cost.
MAX_CODINGS: Final = 3
# Bytes that one step of a streamed body decodes at most: 0.1 to 0.2 ms of work.
PIECE: Final = 64 * 1024

# Each about 1.5 ms of work at most: bytes as received, and bytes decoded (python -m bench.offload). A hop to a thread takes 0.05 ms.
_INLINE_BYTES: Final = 128 * 1024
_INLINE_LIMIT: Final = 512 * 1024

# RFC 9659 section 3: a window may have at most 8 MiB.
_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}

# Codings of the IANA registry that cannot be undone here. What is neither registered nor known is no coding (`utf-8`, `none`, `binary`): Go and
# browsers take the body as it is, too.
_FOREIGN: Final = frozenset({b"compress", b"x-compress", b"exi", b"pack200-gzip", b"aes128gcm", b"dcb", b"dcz"})


def decode(body: bytes, coding: bytes, limit: int) -> bytes:
    """Undo the codings of a `Content-Encoding` value, last one first.

    `limit`: maximum size in bytes of every result, including those between two codings.
    Raises ProtocolError (a coding that cannot be undone, too many codings, broken or incomplete data, or bytes after its end) and
    ResponseTooLarge. An empty body stays empty whatever the header says: some services send it in reply to HEAD and similar requests.
    """
    if not body:
        return body
    decoder = Decoder(coding, limit)
    decoder.push(body)
    parts: list[bytes] = []
    while (piece := decoder.step(limit + 1)) is not None:
        if piece:
            parts.append(piece)
    decoder.end()
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def decode_soon(body: bytes, coding: bytes, limit: int) -> bytes:
    """Like `decode`, but in a thread if it would block the event loop for long. The decoders release the GIL.

    A small body may decode to a large one, so the loop decodes at most `_INLINE_LIMIT` bytes of any. Cancellation: the thread finishes and
    its result is dropped.
    """
    if len(body) <= _INLINE_BYTES:
        if limit <= _INLINE_LIMIT:
            return decode(body, coding, limit)
        try:
            return decode(body, coding, _INLINE_LIMIT)
        except ResponseTooLarge:
            pass  # too large to decode on the loop
    return await asyncio.to_thread(decode, body, coding, limit)


class Decoder:
    """Undoes the codings of one body, step by step: `push` what has arrived, call `step` until it returns None, and at the end `end`.

    `limit`: maximum size in bytes of every result, including those between two codings; None: none. Raises ProtocolError for a coding that
    cannot be undone, or too many.
    """

    def __init__(self, coding: bytes, limit: int | None = None) -> None:
        names = [name for part in coding.lower().split(b",") if (name := part.strip()) in _CODINGS or name in _FOREIGN]
        if len(names) > MAX_CODINGS:
            raise ProtocolError(f"the response has {len(names)} content codings, more than {MAX_CODINGS}", may_be_processed=True)
        if not _FOREIGN.isdisjoint(names):
            raise ProtocolError("the response has a content coding that is not gzip, deflate, br or zstd", may_be_processed=True)
        self._limit = limit
        self._stages = [(name, _CODINGS[name]()) for name in reversed(names)] or [(b"identity", _Identity())]
        self._sizes = [0] * len(self._stages)
        self._is_empty = True

    def push(self, data: bytes) -> None:
        """Add bytes as they were received."""
        self._is_empty = self._is_empty and not data
        self._stages[0][1].push(data)

    def step(self, size: int = PIECE) -> bytes | None:
        """Do a bounded piece of work. Returns the next decoded bytes, about `size` at most; b"" for no result yet; None if more input is
        needed. Raises ProtocolError, ResponseTooLarge."""
        last = len(self._stages) - 1
        for index in range(last, -1, -1):
            name, stage = self._stages[index]
            try:
                piece = stage.step(size)
            except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
                raise _broken(name) from error
            if piece is None:
                continue
            self._sizes[index] += len(piece)
            if self._limit is not None and self._sizes[index] > self._limit:
                raise ResponseTooLarge(f"the response is larger than {self._limit} bytes when decoded", may_be_processed=True)
            if index == last:
                return piece
            self._stages[index + 1][1].push(piece)
            return b""
        return None

    def end(self) -> None:
        """The body is over. Raises ProtocolError if it is incomplete; a body without a byte is complete."""
        for name, stage in self._stages:
            if not self._is_empty and not stage.is_complete:
                raise _broken(name)


def _broken(name: bytes) -> ProtocolError:
    return ProtocolError(f"the {name.decode('ascii')} content coding of the response is broken", may_be_processed=True)


class _Codec:
    """Undoes one coding. `is_complete`: nothing is missing behind what was pushed."""

    def __init__(self) -> None:
        self._input = b""
        self._has_more = False
        self.is_complete = False

    def push(self, data: bytes) -> None:
        self._input = self._input + data if self._input else data

    def step(self, size: int) -> bytes | None:
        """Decode about `size` bytes at most; None if more input is needed."""
        if not self._input and not self._has_more:
            return None
        data, self._input = self._input, b""
        return self._decode(data, size)

    def _decode(self, data: bytes, size: int) -> bytes:
        raise NotImplementedError


class _Identity(_Codec):
    def _decode(self, data: bytes, size: int) -> bytes:
        self.is_complete = True
        return data


class _Gzip(_Codec):
    """One or more concatenated gzip members (RFC 1952 section 2.2)."""

    def __init__(self) -> None:
        super().__init__()
        self._member: Any = None

    def _decode(self, data: bytes, size: int) -> bytes:
        if self._member is None:
            self._member = zlib.decompressobj(wbits=31)
        member = self._member
        piece: bytes = member.decompress(data, size)
        self.is_complete = member.eof
        if member.eof:
            self._input, self._has_more, self._member = member.unused_data, False, None
        else:
            self._input, self._has_more = member.unconsumed_tail, len(piece) >= size
        return piece


class _Deflate(_Codec):
    """zlib data (RFC 1950), or the raw deflate data that some services send instead (RFC 9110 section 8.4.1.2)."""

    def __init__(self) -> None:
        super().__init__()
        self._inflater: Any = None

    def step(self, size: int) -> bytes | None:
        if self._inflater is None:
            start = self._input
            if len(start) < 2:
                return None
            is_zlib = start[0] & 0x0F == 8 and (start[0] << 8 | start[1]) % 31 == 0
            self._inflater = zlib.decompressobj(wbits=15 if is_zlib else -15)
        return super().step(size)

    def _decode(self, data: bytes, size: int) -> bytes:
        inflater = self._inflater
        if self.is_complete:
            raise EOFError
        piece: bytes = inflater.decompress(data, size)
        self.is_complete = inflater.eof
        self._input, self._has_more = inflater.unused_data or inflater.unconsumed_tail, not inflater.eof and len(piece) >= size
        return piece


class _Brotli(_Codec):
    def __init__(self) -> None:
        super().__init__()
        self._decompressor = brotli.Decompressor()

    def _decode(self, data: bytes, size: int) -> bytes:
        # The decoder rounds the size up to its buffer's.
        piece: bytes = self._decompressor.process(data, output_buffer_limit=size)
        self.is_complete = self._decompressor.is_finished()
        self._has_more = bool(piece) and not self.is_complete
        return piece


class _Zstd(_Codec):
    """One or more concatenated frames (RFC 8878 section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self._frame: Any = None

    def _decode(self, data: bytes, size: int) -> bytes:
        if self._frame is None:
            self._frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        frame = self._frame
        piece: bytes = frame.decompress(data, size)
        self.is_complete = frame.eof
        if frame.eof:
            self._input, self._has_more, self._frame = frame.unused_data, False, None
        else:
            self._has_more = not frame.needs_input
        return piece


_CODINGS: Final[dict[bytes, Callable[[], _Codec]]] = {
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"deflate": _Deflate,
    b"br": _Brotli,
    b"zstd": _Zstd,
}
