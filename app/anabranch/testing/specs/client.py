"""One HTTP/1.1 request written as bytes, and the answer read as bytes.

A client that corrects nothing: the target, repeated header fields and a body that does not fit its length go out as they stand, and
what comes back is checked for its framing (a body after HEAD is a fault that a kind client would hide). One connection a request.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from anabranch.testing.serving import LOOPBACK


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


class FramingError(AssertionError):
    """What the server sent is not one well-framed answer."""


def render(method: str, target: str, headers: list[tuple[str, str]], body: bytes | None, *, port: int) -> bytes:
    """The request's bytes. `host`, `content-length` and `connection: close` are added where the caller has not written them."""
    given = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"host: {LOOPBACK}:{port}")
    if body is not None and not given & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(body)}")
    if "connection" not in given:
        lines.append("connection: close")
    lines += [f"{name}: {value}" for name, value in headers]
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


async def send(port: int, request: bytes, *, is_head: bool = False) -> RawAnswer:
    """Send `request`, which must ask for the connection to be closed, and read the answer to the end of the connection.

    Raises FramingError when the bytes are not exactly one answer.
    """
    async with connection(port) as (reader, writer):
        writer.write(request)
        with contextlib.suppress(ConnectionError):  # the server may answer and close before it has read everything
            await writer.drain()
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                received += chunk
    return parse(bytes(received), is_head=is_head)


def parse(received: bytes, *, is_head: bool = False) -> RawAnswer:
    """Take one answer apart. Raises FramingError when there is less or more than that."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        raise FramingError(f"no whole response head in {received[:200]!r}")
    start, *lines = head.decode("latin-1").split("\r\n")
    version, _, remainder = start.partition(" ")
    if version != "HTTP/1.1" or not remainder[:3].isdigit():
        raise FramingError(f"not a status line: {start!r}")
    status = int(remainder[:3])
    if 100 <= status < 200:
        return parse(rest, is_head=is_head)
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    answer = RawAnswer(status=status, headers=headers)
    if is_head or status in {204, 304}:
        if rest:
            raise FramingError(f"a body of {len(rest)} bytes where none may stand: {rest[:80]!r}")
        return answer
    if "chunked" in (answer.get("transfer-encoding") or ""):
        return RawAnswer(status=status, headers=headers, body=_dechunk(rest))
    length = answer.get("content-length")
    if length is not None and int(length) != len(rest):
        raise FramingError(f"content-length says {length}, {len(rest)} bytes came")
    return RawAnswer(status=status, headers=headers, body=rest)


def _dechunk(rest: bytes) -> bytes:
    body = bytearray()
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            raise FramingError("a chunked body without its last chunk")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            return bytes(body)
        body += rest[:length]
        rest = rest[length + 2 :]
