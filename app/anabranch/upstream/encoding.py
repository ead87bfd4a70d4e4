"""Decodes the content codings of responses: gzip, deflate, br, zstd and lists of them, within a size limit.

Every transport uses this decoder. It works on whole bodies, because responses are buffered up to `max_response` anyway. A decompression
bomb takes no more memory than that, since decoding stops at the limit.

**Source:** RFC 9110 section 8.4, RFC 1950 to 1952, RFC 7932, RFC 8878 and RFC 9659.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Final

import brotli

from anabranch.errors import ProtocolError, ResponseTooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Real responses have at most two codings; each further one multiplies the CPU time that a bomb can cost.
MAX_CODINGS: Final = 3

# Each about 1.5 ms of work at most: bytes as received, and bytes decoded (python -m bench.offload). A hop to a thread takes 0.05 ms.
_INLINE_BYTES: Final = 128 * 1024
_INLINE_LIMIT: Final = 512 * 1024

# RFC 9659 section 3: a window may have at most 8 MiB.
_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 23}


def decode(body: bytes, coding: bytes, limit: int) -> bytes:
    """Decode the codings of a `Content-Encoding` value, last one first.

    `limit`: maximum size in bytes of every result, including those between two codings.
    Raises ProtocolError (unknown coding, too many codings, broken or incomplete data, or bytes after its end) and ResponseTooLarge.
    An empty body stays empty whatever the header says: some services send it in reply to HEAD and similar requests.
    """
    if not body:
        return body
    names = [name for part in coding.lower().split(b",") if (name := part.strip()) and name != b"identity"]
    if len(names) > MAX_CODINGS:
        raise ProtocolError(f"the response has {len(names)} content codings, more than {MAX_CODINGS}", may_be_processed=True)
    for name in reversed(names):
        decoder = _CODINGS.get(name)
        if decoder is None:
            raise ProtocolError("the response has a content coding that is not gzip, deflate, br or zstd", may_be_processed=True)
        try:
            body = decoder(body, limit)
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError) as error:
            raise ProtocolError(f"the {name.decode('ascii')} content coding of the response is broken", may_be_processed=True) from error
    return body


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


def _too_large(limit: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"the response is larger than {limit} bytes when decoded", may_be_processed=True)


def _gunzip(body: bytes, limit: int) -> bytes:
    """One or more concatenated gzip members (RFC 1952 section 2.2)."""
    parts: list[bytes] = []
    size = 0
    while body:
        inflater = zlib.decompressobj(wbits=31)
        parts.append(inflater.decompress(body, limit - size + 1))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not inflater.eof:
            raise EOFError
        body = inflater.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _inflate(body: bytes, limit: int) -> bytes:
    """zlib data (RFC 1950), or the raw deflate data that some services send instead (RFC 9110 section 8.4.1.2)."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    inflater = zlib.decompressobj(wbits=15 if is_zlib else -15)
    result = inflater.decompress(body, limit + 1)
    if len(result) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise EOFError
    return result


def _unbrotli(body: bytes, limit: int) -> bytes:
    decompressor = brotli.Decompressor()
    parts: list[bytes] = []
    size = 0
    while True:
        # The decoder rounds the limit of one step up to its buffer size, so the total is checked as well.
        part = decompressor.process(body, output_buffer_limit=limit - size + 1)
        body = b""
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if decompressor.is_finished():
            return b"".join(parts)
        if not part:
            raise EOFError


def _unzstd(body: bytes, limit: int) -> bytes:
    """One or more concatenated frames (RFC 8878 section 3)."""
    parts: list[bytes] = []
    size = 0
    while body:
        decompressor = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        parts.append(decompressor.decompress(body, limit - size + 1))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not decompressor.eof:
            raise EOFError
        body = decompressor.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


_CODINGS: Final[dict[bytes, Callable[[bytes, int], bytes]]] = {
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _inflate,
    b"br": _unbrotli,
    b"zstd": _unzstd,
}
