"""Makes byte sequences that are nearly pipelined requests, and lets the server's protocol read them, over a transport in memory.

Of the pieces of a request most are as they should be, so that faults are met at every depth: in the third field, in the second chunk, in the
request behind that.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from anabranch.server.http1.connection import BoundedProtocol
from tests.support.strict_http import Reading, Request

_INNER: Final = b"GET /inner HTTP/1.1\r\nHost: inner.test\r\n\r\n"

_METHODS: Final = (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"M-X", b"get")
_ODD_METHODS: Final = (b"", b"CONNECT", b"G T", b"G\tT", b"PRI", b"G\x00T", b" GET", b"\xff", b"GET:", b"TRACE")
_TARGETS: Final = (b"/", b"/a", b"/a/b?c=d&e", b"//x", b"/%2e%2E/x", b"/?", b"http://b.test/x?y", b"https://B.test:80", b"http://[::1]/")
_ODD_TARGETS: Final = (
    b"", b"*", b"a", b"a.test:80", b"/a b", b"/\t", b"/#f", b"/\xc3\xbc", b"/a\r\nX: y", b"http://", b"http:///x", b"http://u@b.test/", b"ftp://b.test/",
    b"http://b.test:99999/", b"http:/x", b"/\x00", b"/\x7f", b"/a\\b",
)  # fmt: skip
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2")
_ODD_VERSIONS: Final = (
    b"",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1,1",
    b"HTTP/11",
    b"HTTP/1.10",
    b"HTTPS/1.1",
    b"HTTP/1.1\t",
    b"HTTP /1.1",
)
_HOSTS: Final = (b"a.test", b"a.test:8080", b"127.0.0.1", b"[::1]:80", b"A_b.test.", b"a.test:")
_ODD_HOSTS: Final = (
    b"",
    b"a b",
    b"a,b",
    b"u@a",
    b"a/b",
    b"a:b",
    b"a:1:2",
    b"[::1",
    b"[x]",
    b"::1",
    b"a.test:65536",
    b"a\tb",
    b"\xc3\xbc.test",
    b"%zz",
    b"[]",
)
_FIELDS: Final = (
    b"X: 1\r\n", b"x:\r\n", b"X:1\r\n", b"Accept: */*\r\n", b"X: \t1 2\t \r\n", b"X: \xff\r\n", b"Connection: keep-alive\r\n", b"Connection: x, y\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"TE: trailers\r\n", b"Trailer: x\r\n",
    b"Content-Type: text/plain\r\n", b"Expect: 100-continue\r\n", b"Expect: 100-Continue\r\n", b"Keep-Alive: timeout=5\r\n", b"Connection:\r\n",
    b"Proxy-Connection: close\r\n", b"Content-Encoding: gzip\r\n", b"X: Connection: close\r\n",
)  # fmt: skip
_ODD_FIELDS: Final = (
    b"X : 1\r\n", b" X: 1\r\n", b"X: 1\r\n 2\r\n", b"X: 1\r\n\t2\r\n", b"X\r\n", b": 1\r\n", b"X: \x00\r\n", b"X: a\rb\r\n", b"X: a\n", b"\xc3: 1\r\n",
    b"X: 1\r\r\n", b"X(: 1\r\n", b"Connection: close\r\n", b"Connection: x,CLOSE,\r\n", b"Expect: y\r\n", b"Expect:\r\n", b"Host: b.test\r\n", b"\r\n",
    b"X: \x0b1\r\n", b"X: \x7f\r\n", b"Expect: 100-continue, 100-continue\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"\n",
    b"Content_Length: 3\r\n", b"Content-Length\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"Transfer-Encoding : chunked\r\n",
)  # fmt: skip
_CODINGS: Final = (b"chunked", b"Chunked", b" chunked ", b",chunked", b"chunked,", b"\tCHUNKED")
_ODD_CODINGS: Final = (
    b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"identity", b"", b"xchunked", b"chunked;a=b", b'"chunked"', b"chunk", b"\x0bchunked",
    b"chunked\x00", b"chun\r\n ked", b"identity, chunked", b"chunked chunked", b"\xff",
)  # fmt: skip
_ODD_LENGTHS: Final = (
    b"", b"+%d", b"-%d", b"0x%d", b"%d,%d", b"%d, %d", b"%d %d", b"%d\x00", b"%d.0", b"1e%d", b"\xd9\xa1", b"%d_0", b"18446744073709551616", b"'%d'",
    b"%d\t", b"\t%d", b"00%d", b"0000000000000000000%d", b"%d\x0b", b"%d;",
)  # fmt: skip
_CHUNK_ENDS: Final = (
    b"\n",
    b"",
    b"\r",
    b"\r\r\n",
    b"\n\r\n",
    b" \r\n",
    b";\r\n",
    b";a\r\n",
    b';a="\n"\r\n',
    b";a=b\nc\r\n",
    b"; a = b\r\n",
    b";=\r\n",
    b";a;b\r\n",
    b"\x00\r\n",
)
_TRAILERS: Final = (
    b"",
    b"",
    b"",
    b"X: 1\r\n",
    b"Host: c.test\r\n",
    b"X\r\n",
    b"X : 1\r\n",
    b" X: 1\r\n",
    b"X: 1\n",
    b"Content-Length: 9\r\n",
    b"X: \x00\r\n",
)
_CONTENTS: Final = (b"", b"a", b"hello", b"\r\n", b"0\r\n\r\n", _INNER, b"\n\n", b"\x00\xff", b"5\r\nhello\r\n", b"a" * 300)
_NOISE: Final = (
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\xff",
    b",",
    b";",
    b"0",
    b"9",
    b"a",
    b"\r\n\r\n",
    b"\n\n",
    b"chunked",
    _INNER,
)


def generate(random: Random) -> bytes:
    """Bytes of up to five requests, one after the other, more or less as they should be."""
    oddity = random.choice((0.0, 0.02, 0.02, 0.06))
    data = b"".join(_request(random, oddity) for _ in range(random.choice((1, 1, 2, 2, 3, 3, 4, 5))))
    for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2, 4))):
        data = _mutated(random, data)
    return data


def _request(random: Random, oddity: float) -> bytes:
    def one(usual: Sequence[bytes], odd: Sequence[bytes]) -> bytes:
        return random.choice(odd if random.random() < oddity else usual)

    content = random.choice(_CONTENTS)
    fields = [b"Host: " + one(_HOSTS, _ODD_HOSTS) + one((b"\r\n",), (b"\n", b"\r", b" \r\n", b"\r\n "))]
    if random.random() < oddity:
        fields = fields * random.choice((0, 2))
    fields += [one(_FIELDS, _ODD_FIELDS) for _ in range(random.choice((0, 0, 1, 2, 4)))]
    framing = random.choice(("none", "length", "length", "chunked", "chunked"))
    body = b""
    if framing == "length":
        length = b"%d"
        if random.random() < oddity:
            length = random.choice(_ODD_LENGTHS)
        fields.append(b"Content-Length: " + length.replace(b"%d", b"%d" % len(content)) + b"\r\n")
        body = content
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: " + one(_CODINGS, _ODD_CODINGS) + b"\r\n")
        body = _chunked(random, content, one)
    random.shuffle(fields)
    start = (
        one(_METHODS, _ODD_METHODS) + one((b" ",), (b"  ", b"\t", b"")) + one(_TARGETS, _ODD_TARGETS) + one((b" ",), (b"  ", b"\t", b""))
    )
    line = start + one(_VERSIONS, _ODD_VERSIONS) + one((b"\r\n",), (b"\n", b"\r\r\n", b"", b"\r\n "))
    before = one((b"", b"", b"", b"\r\n"), (b"\n", b" ", b"\r", b"\r\n\r\n\r\n", b"\x00"))
    return before + line + b"".join(fields) + one((b"\r\n",), (b"", b"\n", b"\r\r\n", b" \r\n")) + body


def _chunked(random: Random, content: bytes, one: Callable[[Sequence[bytes], Sequence[bytes]], bytes]) -> bytes:
    data = b""
    while content:
        size = random.randint(1, len(content))
        number = random.choice((b"%x", b"%x", b"%X", b"0%x", b"000%x")) % size
        number = one(
            (number,),
            (b"%x" % (size + 1), b"0x" + number, b"+" + number, b" " + number, b"-" + number, b"f" * 16, b"", b"g", number + b"_"),
        )
        data += (
            number
            + one((b"\r\n", b"\r\n", b";a=b\r\n", b' ; c = "d;\\""\r\n'), _CHUNK_ENDS)
            + content[:size]
            + one((b"\r\n",), (b"\n", b"", b"\r", b"x\r\n"))
        )
        content = content[size:]
    return (
        data
        + one((b"0", b"0", b"00"), (b"", b"1", b"0x0", b"-0", b"0 "))
        + one((b"\r\n",), _CHUNK_ENDS)
        + random.choice(_TRAILERS[:4])
        + one((b"",), _TRAILERS)
        + one((b"\r\n",), (b"", b"\n", b"\r"))
    )


def _mutated(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    end = min(len(data), at + random.choice((1, 1, 2, 5, 30)))
    kind = random.randrange(5)
    if kind == 0:
        return data[:at] + random.choice(_NOISE) + data[at:]
    if kind == 1:
        return data[:at] + random.choice(_NOISE) + data[end:]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data[:at] + data[at:end] * 2 + data[end:]
    return data[:at]


def pieces(random: Random, data: bytes) -> list[bytes]:
    """`data` as a network may deliver it."""
    kind = random.randrange(4)
    if kind == 0 or not data:
        return [data]
    if kind == 1 and len(data) < 600:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(random.randint(0, len(data)) for _ in range(random.choice((1, 2, 5))))
    return [data[at:end] for at, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Recorder:
    """An application that answers each request with its number. `requests`: those that it received whole. `is_early`: it answers before it reads the
    body, and so receives none."""

    def __init__(self, *, is_early: bool = False) -> None:
        self.requests: list[Request] = []
        self.is_early = is_early
        self._begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, self._begun = self._begun, self._begun + 1
        if self.is_early:
            await self._answer(number, send)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append(
            Request(
                method=scope["method"].encode(),
                target=scope["raw_path"],
                query=scope["query_string"],
                fields=list(scope["headers"]),
                body=body,
            )
        )
        if not self.is_early:
            await self._answer(number, send)

    @staticmethod
    async def _answer(number: int, send: Send) -> None:
        content = b"#%d" % number
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
        await send({"type": "http.response.body", "body": content})


class Memory(asyncio.Transport):
    """A transport to nowhere that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_paused = False
        self.is_closed = False
        self.protocol: BoundedProtocol | None = None
        self._socket = socket.socket()

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.sent += data

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    def close(self) -> None:
        self._socket.close()
        if not self.is_closed:
            self.is_closed = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close


async def answered_in_memory(data: Sequence[bytes], app: Recorder) -> tuple[bytes, bool]:
    """What is sent in answer to `data`, after which the client sends no more; and whether everything was closed and forgotten then."""
    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    state = ServerState()
    protocol, transport = BoundedProtocol(config, state, {}), Memory()
    transport.protocol = protocol
    protocol.connection_made(transport)
    for piece in data:
        if transport.is_closed:
            break
        protocol.data_received(piece)
        await _turns_until(lambda: not transport.is_paused)
    if not transport.is_closed and not protocol.eof_received():
        transport.close()
    await _turns_until(lambda: transport.is_closed and not state.tasks and not state.connections)
    is_closed = transport.is_closed and not state.tasks and not state.connections
    transport.close()
    await asyncio.sleep(0)
    return bytes(transport.sent), is_closed


async def _turns_until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until the condition holds, but not without end."""
    for _ in range(5000):
        await asyncio.sleep(0)
        if condition():
            return


_HEAD: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*\r\n((?:[!-9;-~]+: [^\r\n]*\r\n)*)\r\n")
_LENGTH: Final = re.compile(rb"(?i)^content-length: ([0-9]+)\r$", re.MULTILINE)


def statuses(sent: bytes, methods: Sequence[bytes]) -> list[int]:
    """The final statuses of the responses in `sent`, to requests with these `methods` and perhaps one more. Raises AssertionError where a client
    would lose its place."""
    found: list[int] = []
    at = 0
    while at < len(sent):
        head = _HEAD.match(sent, at)
        assert head is not None, f"no response at {sent[at : at + 60]!r}"
        at, status = head.end(), int(head[1])
        if status == 100:
            continue
        is_beyond = len(found) >= len(methods)
        is_bodyless = status == 204 or (is_beyond and at == len(sent)) or (not is_beyond and methods[len(found)] == b"HEAD")
        length = _LENGTH.search(head[2])
        if not is_bodyless:
            assert length is not None, f"no length at {sent[head.start() : at]!r}"
            at += int(length[1])
            assert at <= len(sent), "a response is not whole"
        found.append(status)
    return found


def differences(reading: Reading, sent: bytes, app: Recorder) -> list[str]:
    """How what a server sent, and what its application got, differ from the strict reading of what the client sent."""
    found = []
    served = [request for request in reading.requests if request.target != b"*"]
    requests = app.requests
    if served != requests and not app.is_early:
        at = next((n for n, (a, b) in enumerate(zip(served, requests, strict=False)) if a != b), min(len(served), len(requests)))
        found.append(f"request {at}: {served[at : at + 1]} was read as {requests[at : at + 1]}")
    try:
        got = statuses(sent, [request.method for request in reading.requests])
    except AssertionError as error:
        return [*found, str(error)]
    wanted = [204 if request.target == b"*" else 200 for request in reading.requests]
    if got[: len(wanted)] != wanted:
        found.append(f"expected {wanted}, got {got}")
    is_cut = reading.is_refused or reading.is_incomplete
    if len(got) != len(wanted) + is_cut:
        found.append(f"expected {len(wanted) + is_cut} answers, got {got}")
    elif is_cut and got[-1] < 400 and not app.is_early:
        found.append(f"expected a refusal at the end, got {got}")
    return found
