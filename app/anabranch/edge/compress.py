"""Compresses the responses of an endpoint for clients that accept it: the last thing that happens to a response.

The journal keeps the uncompressed body. A response that says `no-transform`, or whose request does, is left as it is.

**Source:** RFC 9110 sections 8.4 (content codings), 8.8.3.3 (entity tags), 12.5.3 (`Accept-Encoding`) and 12.5.5 (`Vary`); RFC 9111 section 5.2
(`no-transform`).
"""

import asyncio
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import brotli

from anabranch.core.negotiation import Remembered, choose_coding
from anabranch.edge.problems import HeaderList
from anabranch.edge.respond import Response
from anabranch.engine.request import ClientRequest
from anabranch.plan.model import CompressionPlan

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Coding(NamedTuple):
    """`compress`: the whole body. It releases the GIL. `inline_bytes`: size up to which that takes less than 0.7 ms, so that a thread is not
    worth its hop (`python -m bench.compression`)."""

    compress: Callable[[bytes], bytes]
    inline_bytes: int


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(4, zlib.DEFLATED, 31)
    return compressor.compress(body) + compressor.flush()


def _brotli(body: bytes) -> bytes:
    compressed: bytes = brotli.compress(body, mode=brotli.MODE_TEXT, quality=3)
    return compressed


def _zstd(body: bytes) -> bytes:
    return zstd.compress(body, 3)


# The levels are for content that is made for each request: one level more costs up to twice the time for a fiftieth of the size.
CODINGS: Final = {"gzip": Coding(_gzip, 32 << 10), "br": Coding(_brotli, 48 << 10), "zstd": Coding(_zstd, 128 << 10)}
_BODYLESS: Final = frozenset({204, 205, 304})


class Compressor:
    """Compresses the responses of one endpoint."""

    __slots__ = ("_choose", "_min_size_bytes")

    def __init__(self, plan: CompressionPlan) -> None:
        codings = plan.codings
        self._choose: Remembered[tuple[str | None, bool]] = Remembered(lambda field: choose_coding(field, codings), otherwise=(None, True))
        self._min_size_bytes = plan.min_size_bytes

    async def compress(self, response: Response, request: ClientRequest) -> Response:
        """The response as the client gets it. Also the response to HEAD, whose size is then unknown (RFC 9110 section 9.3.2 allows that).

        Cancellation: a thread finishes and its result is dropped.
        """
        if response.status in _BODYLESS or _says_no_transform(value for name, value in response.headers if name == b"cache-control"):
            return response
        headers = _varying(response.headers)
        coding = self._coding(headers, request)
        if coding is None:
            return Response(response.status, headers, response.body)
        body = response.body
        headers = [_weakened(pair) for pair in headers if pair[0] != b"content-length"]
        headers.append((b"content-encoding", coding.encode()))
        if body:
            chosen = CODINGS[coding]
            body = chosen.compress(body) if len(body) <= chosen.inline_bytes else await asyncio.to_thread(chosen.compress, body)
            headers.append((b"content-length", b"%d" % len(body)))
        return Response(response.status, headers, body)

    def _coding(self, headers: HeaderList, request: ClientRequest) -> str | None:
        field = request.headers.get(b"accept-encoding")
        if field is None:
            return None
        coding, may_be_plain = self._choose(field)
        if coding is None:
            return None
        size_bytes = next((int(value) for name, value in headers if name == b"content-length"), 0)
        if size_bytes < (self._min_size_bytes if may_be_plain else 1):
            return None
        asked = request.headers.get(b"cache-control")
        return None if asked is not None and _says_no_transform((asked,)) else coding


def _says_no_transform(fields: Iterable[bytes]) -> bool:
    return any(directive.strip() == b"no-transform" for field in fields for directive in field.lower().split(b","))


def _varying(headers: HeaderList) -> HeaderList:
    """A copy with `Accept-Encoding` in `Vary`: a cache must know that other clients get other bytes, also when it stores the plain ones."""
    for index, (name, value) in enumerate(headers):
        if name == b"vary":
            if {part.strip() for part in value.lower().split(b",")} & {b"*", b"accept-encoding"}:
                return list(headers)
            return [*headers[:index], (name, value + b", Accept-Encoding"), *headers[index + 1 :]]
    return [*headers, (b"vary", b"Accept-Encoding")]


def _weakened(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """A strong entity tag as a weak one: it is that of the plain bytes, and two representations must not share one."""
    name, value = pair
    return (name, b"W/" + value) if name == b"etag" and value.startswith(b'"') else pair
