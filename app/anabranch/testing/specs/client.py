"""One HTTP/1.1 request written as bytes, and the answer read as bytes.

Sends everything verbatim: the target, repeated header fields, a body that does not fit its length. Checks the framing of the answer, such as a
body after HEAD, which other clients hide. Each request has a connection of its own.

Nothing may follow the answer. If the server keeps the connection open, a second request proves this without waiting: its answer must be the next
thing on the connection.

**Source:** RFC 9112 sections 6 and 9.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Final

from anabranch.errors import UpstreamError
from anabranch.testing.serving import LOOPBACK
from anabranch.upstream.encoding import decode

_MOST_BYTES: Final = 64 << 20
"""Of a body without its content coding."""
# The gateway answers this path itself, for every document, and returns the request id.
_PROBE: Final = b"GET /livez/behind HTTP/1.1\r\nhost: anabranch\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """`status`, header fields in the order of the wire (lower-case names, repeats kept) and the body without its framing."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether the server says that it closes the connection."""
        return any(word.strip().lower() == "close" for value in self.all("connection") for word in value.split(","))


class FramingError(AssertionError):
    """What the server sent is not one well-framed answer."""


def render(method: str, target: str, headers: list[tuple[str, str]], body: bytes | None, *, port: int) -> bytes:
    """The request's bytes, text as UTF-8. `host`, `content-length` and `connection: close` are added where the caller has not written them.
    A field with an empty value is left out, and not added."""
    given = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"host: {LOOPBACK}:{port}")
    if body is not None and not given & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(body)}")
    if "connection" not in given:
        lines.append("connection: close")
    lines += [f"{name}: {value}" for name, value in headers if value]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + (body or b"")


def in_chunks(body: bytes, size: int) -> bytes:
    """`body` in chunked framing, `size` bytes a chunk."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A fresh connection; leaving closes it at once, whatever is under way."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=2**26)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send(port: int, request: bytes, *, count: int = 1, is_head: bool = False, half_close: bool = False) -> list[RawAnswer]:
    """Send `request` and read its answer; or, with `count`, the answers to the requests in it. Raises FramingError when the server sends
    anything else.

    `is_head`: it is one HEAD request. `half_close`: end our sending side behind the request.
    """
    async with connection(port) as (reader, writer):
        writer.write(request)
        with contextlib.suppress(OSError):  # the server may answer and close before it has read everything
            await writer.drain()
            if half_close:
                writer.write_eof()
        incoming = _Incoming(reader)
        answers = [await incoming.answer(is_head=is_head) for _ in range(count)]
        if not (answers[-1].closes or half_close or incoming.is_ended):
            name = secrets.token_hex(8)
            writer.write(_PROBE % name.encode())
            if await incoming.has_more() and (further := await incoming.answer()).get("x-request-id") != name:
                raise FramingError(f"there are more answers than requests: {further.status}, {further.body[:200]!r}")
        if await incoming.has_more():
            raise FramingError(f"{len(incoming.received)} bytes after the answer: {bytes(incoming.received[:200])!r}")
        return [_decoded(answer) for answer in answers]


def _decoded(answer: RawAnswer) -> RawAnswer:
    """The answer with the body that its content coding stands for."""
    coding = ",".join(answer.all("content-encoding"))
    if not coding or not answer.body:
        return answer
    try:
        return replace(answer, body=decode(answer.body, coding.encode(), _MOST_BYTES))
    except UpstreamError as error:
        raise FramingError(f"the body is not {coding}: {error}") from None


class _Incoming:
    """What the server sends. `received`: the bytes of no answer yet. `is_ended`: no more will come."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.received = bytearray()
        self.is_ended = False

    async def answer(self, *, is_head: bool = False) -> RawAnswer:
        """The next answer that is not interim. Raises FramingError."""
        while True:
            found = take(self.received, is_head=is_head, is_ended=self.is_ended)
            if found is not None and found.status >= 200:
                return found
            if found is None:
                await self._read()

    async def has_more(self) -> bool:
        """Wait for more bytes, or the end of the connection."""
        while not self.received and not self.is_ended:
            await self._read()
        return bool(self.received)

    async def _read(self) -> None:
        chunk = b""
        with contextlib.suppress(ConnectionError):  # a reset ends what came before it
            chunk = await self._reader.read(65536)
        self.received += chunk
        self.is_ended = not chunk


def parse(received: bytes, *, is_head: bool = False) -> RawAnswer:
    """The one answer that `received` is. Raises FramingError when there is less or more."""
    rest = bytearray(received)
    answer = take(rest, is_head=is_head, is_ended=True)
    while answer is not None and answer.status < 200:
        answer = take(rest, is_head=is_head, is_ended=True)
    assert answer is not None
    if rest:
        raise FramingError(f"{len(rest)} bytes after the answer: {bytes(rest[:80])!r}")
    return answer


def take(received: bytearray, *, is_head: bool, is_ended: bool) -> RawAnswer | None:
    """Take the first answer off `received`; None when more has to come. Raises FramingError for what is no answer.

    `is_head`: the answer to a HEAD request. `is_ended`: the connection has ended.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if is_ended:
            raise FramingError(f"no whole response head in {bytes(received[:200])!r}")
        return None
    start, *lines = received[:end].decode("latin-1").split("\r\n")
    version, _, remainder = start.partition(" ")
    if version != "HTTP/1.1" or not remainder[:3].isdigit():
        raise FramingError(f"not a status line: {start!r}")
    status = int(remainder[:3])
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    answer = RawAnswer(status=status, headers=headers)
    begin = end + 4
    if is_head or status < 200 or status in {204, 304}:
        del received[:begin]
        return answer
    if "chunked" in (answer.get("transfer-encoding") or ""):
        # Looked at only where it may end: a large body comes in many pieces.
        if not is_ended and not received.endswith(b"\r\n\r\n"):
            return None
        found = _dechunk(received, begin)
        if found is None:
            if is_ended:
                raise FramingError("a chunked body without its last chunk")
            return None
        body, begin = found
    elif (length := answer.get("content-length")) is not None:
        body = bytes(received[begin : begin + int(length)])
        if len(body) < int(length):
            if is_ended:
                raise FramingError(f"content-length says {length}, got {len(body)} bytes")
            return None
        begin += len(body)
    elif is_ended:
        body, begin = bytes(received[begin:]), len(received)
    else:
        return None
    del received[:begin]
    return RawAnswer(status=status, headers=headers, body=body)


def _dechunk(received: bytearray, at: int) -> tuple[bytes, int] | None:
    """The chunked body that begins at `at`, and where it ends; None when it is not whole."""
    body = bytearray()
    while True:
        line_end = received.find(b"\r\n", at)
        if line_end < 0:
            return None
        length = int(received[at:line_end].split(b";")[0], 16)
        at = line_end + 2
        if length == 0:
            end = received.find(b"\r\n\r\n", at - 2)  # directly behind the last chunk, or behind the trailer fields
            return None if end < 0 else (bytes(body), end + 4)
        if len(received) < at + length + 2:
            return None
        body += received[at : at + length]
        at += length + 2
