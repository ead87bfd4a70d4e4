"""Sends one HTTP/1.1 request as bytes and reads the response as bytes.

This client corrects nothing: the target, repeated header fields and a body that does not match its length are sent unchanged. It checks the
framing of the response, including faults that a lenient client hides (a body after HEAD). One connection for each request.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.serving import LOOPBACK


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
    """The server did not send exactly one well-framed response."""


def render(method: str, target: str, headers: list[tuple[str, str]], body: bytes | None, *, port: int) -> bytes:
    """The request's bytes. Adds `host`, `content-length` and `connection: close` unless the caller has set them."""
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
    """`body` in chunked framing, `size` bytes for each chunk."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A fresh connection; leaving closes it at once, even during a transfer."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=2**26)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send(port: int, request: bytes, *, is_head: bool = False) -> RawAnswer:
    """Send `request`, which must have `connection: close`, and read the response to the end of the connection.

    Raises FramingError when the bytes are not exactly one response.
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
    """Parse one response. Raises FramingError when there is less or more than one."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        raise FramingError(f"no complete response head in {received[:200]!r}")
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
            raise FramingError(f"a body of {len(rest)} bytes where none is allowed: {rest[:80]!r}")
        return answer
    if "chunked" in (answer.get("transfer-encoding") or ""):
        return RawAnswer(status=status, headers=headers, body=_dechunk(rest))
    length = answer.get("content-length")
    if length is not None and int(length) != len(rest):
        raise FramingError(f"content-length says {length}, got {len(rest)} bytes")
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
