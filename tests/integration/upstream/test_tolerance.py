"""Which deviations from HTTP both transports take, and which both refuse. docs/decisions/0013-what-services-send.md has the same table.

The service is a bare socket that writes exactly the bytes of a case and keeps the connection open, unless the case ends with it.
"""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import brotli
import pytest

from anabranch.errors import ConnectionLost, ProtocolError, ResponseTooLarge, UpstreamError
from tests.support.rig import Rig

PLAIN: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GZIPPED: Final = gzip.compress(b"ab")


def ok(*fields: bytes, body: bytes = b"ab", length: bool = True) -> bytes:
    """A response with these lines in its head."""
    lines = [b"HTTP/1.1 200 OK", *fields, *([b"content-length: %d" % len(body)] if length else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Service:
    """Answers the first request with `raw`, every other one with PLAIN. `connections`: accepted. `requests`: read so far."""

    def __init__(self, raw: bytes, *, closes: bool) -> None:
        self._raw = raw
        self._closes = closes
        self.connections = 0
        self.requests = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                is_first = self.requests == 1
                writer.write(self._raw if is_first else PLAIN)
                if is_first and self._closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Taken(NamedTuple):
    """A response that is taken. `is_kept`: its connection carries the next request. `closes`: the service ends the connection behind it."""

    raw: bytes
    body: bytes = b"ab"
    status: int = 200
    is_kept: bool = True
    closes: bool = False
    method: str = "GET"


TAKEN: Final = {
    # The head, RFC 9112 sections 2 to 5.
    "no reason phrase": Taken(b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nab"),
    "no space behind the status": Taken(b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nab"),
    "reason phrase beyond ASCII": Taken(b"HTTP/1.1 200 Tr\xc3\xa8s bien\r\ncontent-length: 2\r\n\r\nab"),
    "unknown status": Taken(b"HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nab", status=299),
    "status beyond 599": Taken(b"HTTP/1.1 999 Denied\r\ncontent-length: 2\r\n\r\nab", status=999),
    "lines that all end with LF": Taken(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nab", is_kept=False),
    "folded line": Taken(ok(b"x: a", b"  folded"), is_kept=False),
    "space before a colon": Taken(ok(b"x : a"), is_kept=False),
    "value beyond ASCII": Taken(ok(b"x: Zo\xc3\xab")),
    "empty value": Taken(ok(b"x:")),
    "no space behind a colon": Taken(ok(b"x:1")),
    "underscore in a name": Taken(ok(b"x_y: 1")),
    "400 fields": Taken(ok(*[b"x: 1"] * 400)),
    "head of 40 KB": Taken(ok(b"x: " + b"1" * 40_000)),
    "interim responses": Taken(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + b"HTTP/1.1 102 Processing\r\n\r\n" * 60 + ok()),
    "dates that are none": Taken(ok(b"date: yesterday", b"expires: 0", b"last-modified: -1")),
    # Length and framing, RFC 9110 section 8.6, RFC 9112 sections 6 and 7.
    "equal lengths on two lines": Taken(ok(b"content-length: 2"), is_kept=False),
    "equal lengths in a list": Taken(ok(b"content-length: 2, 2", length=False), is_kept=False),
    "length with zeros in front": Taken(ok(b"content-length: 0002", length=False)),
    "length with white space around it": Taken(ok(b"content-length: \t 2 \t", length=False)),
    "no length, until the end of the connection": Taken(ok(length=False), is_kept=False, closes=True),
    "HTTP/1.0": Taken(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab", is_kept=False),
    "HTTP/1.0 that keeps its connection": Taken(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nab", is_kept=False),
    "204 with a length": Taken(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", b"", 204),
    "304 with a length": Taken(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n", b"", 304),
    "length of a response to HEAD": Taken(ok(b"content-length: 500", body=b"", length=False), b"", method="HEAD"),
    "chunked, in capitals": Taken(ok(b"Transfer-Encoding: CHUNKED", body=b"2\r\nab\r\n0\r\n\r\n", length=False)),
    "chunk size with zeros and in capitals": Taken(CHUNKED + b"0000000A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunk size padded with spaces": Taken(CHUNKED + b"2    \r\nab\r\n0\r\n\r\n"),
    "chunk extension": Taken(CHUNKED + b'2;a=b;c="d"\r\nab\r\n0\r\n\r\n'),
    "trailers, which are dropped": Taken(CHUNKED + b"2\r\nab\r\n0\r\nx: y\r\n\r\n"),
    "bytes behind the response": Taken(ok() + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", is_kept=False),
    "empty line behind the response": Taken(ok() + b"\r\n", is_kept=False),
    # Content codings, RFC 9110 section 8.4.
    "coding in capitals": Taken(ok(b"content-encoding: GZIP", body=GZIPPED)),
    "old name of a coding": Taken(ok(b"content-encoding: x-gzip", body=GZIPPED)),
    "identity": Taken(ok(b"content-encoding: identity")),
    "empty coding": Taken(ok(b"content-encoding:")),
    "what is no coding": Taken(ok(b"content-encoding: utf-8")),
    "codings on two lines": Taken(ok(b"content-encoding: gzip", b"content-encoding: br", body=brotli.compress(GZIPPED))),
    "two gzip members": Taken(ok(b"content-encoding: gzip", body=gzip.compress(b"a") + gzip.compress(b"b"))),
    "deflate without zlib's frame": Taken(ok(b"content-encoding: deflate", body=zlib.compress(b"ab", wbits=-15))),
    "coding of an empty body": Taken(ok(b"content-encoding: gzip", body=b""), b""),
    # Keep-alive, RFC 9112 section 9.3.
    "connection: close": Taken(ok(b"connection: close"), is_kept=False),
    "close among other options": Taken(ok(b"connection: keep-alive, Close"), is_kept=False),
    "proxy-connection": Taken(ok(b"proxy-connection: keep-alive")),
    "keep-alive without a number": Taken(ok(b"keep-alive: timeout=soon, max")),
    "keep-alive that is over": Taken(ok(b"keep-alive: timeout=0"), is_kept=False),
    "keep-alive: last request": Taken(ok(b"keep-alive: timeout=5, max=0"), is_kept=False),
    "keep-alive on two lines": Taken(ok(b"keep-alive: timeout=60", b'Keep-Alive: max=0, timeout="9"'), is_kept=False),
}  # fmt: skip

REFUSED: Final = {
    # Not HTTP/1.
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "words": b"garbage\r\n\r\n",
    "TLS alert": b"\x15\x03\x03\x00\x02\x02\x50" * 20,
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "empty line in front": b"\r\n" + PLAIN,
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nrest",
    "101 interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 101 + PLAIN,
    # Two readers could disagree on the head.
    "status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nab",
    "status below 100": b"HTTP/1.1 099 Early\r\ncontent-length: 0\r\n\r\n",
    "status that is no number": b"HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nab",
    "no colon": ok(b"no colon here"),
    "space in a name": ok(b"x y: 1"),
    "empty name": ok(b": 1"),
    "NUL in a value": ok(b"x: a\x00b"),
    "CR in a value": ok(b"x: a\rcontent-length: 0"),
    "first line folded": b"HTTP/1.1 200 OK\r\n x: 1\r\ncontent-length: 2\r\n\r\nab",
    "LF among CRLF": b"HTTP/1.1 200 OK\r\nx: 1\ncontent-length: 2\n\nab",
    "1,001 fields": ok(*[b"x: 1"] * 1001),
    "head of 64 KiB": ok(b"x: " + b"1" * 65_536),
    # ... or on where the response ends.
    "length and chunked": ok(b"transfer-encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"),
    "chunked and length": CHUNKED[:-2] + b"content-length: 2\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "different lengths on two lines": ok(b"content-length: 3"),
    "different lengths in a list": ok(b"content-length: 2, 3", length=False),
    "lengths spelled differently": ok(b"content-length: 2, 02", length=False),
    "length with a sign": ok(b"content-length: +2", length=False),
    "negative length": ok(b"content-length: -2", length=False),
    "length in hexadecimal": ok(b"content-length: 0x2", length=False),
    "length with a fraction": ok(b"content-length: 2.0", length=False),
    "empty length": ok(b"content-length:", length=False),
    "length beyond 64 bits": ok(b"content-length: 18446744073709551618", length=False),
    "space before the colon of a length": ok(b"content-length : 2", length=False),
    "folded length": ok(b"content-length: ", b" 2", length=False),
    "folded transfer coding": ok(b"transfer-encoding:", b" chunked", body=b"2\r\nab\r\n0\r\n\r\n", length=False),
    "chunked twice": ok(b"transfer-encoding: chunked, chunked", body=b"0\r\n\r\n", length=False),
    "chunked on two lines": ok(b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=b"0\r\n\r\n", length=False),
    "transfer coding gzip": ok(b"transfer-encoding: gzip, chunked", body=b"0\r\n\r\n", length=False),
    "transfer coding identity": ok(b"transfer-encoding: identity"),
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "chunk size that is no number": CHUNKED + b"zz\r\nab\r\n0\r\n\r\n",
    "chunk size with a sign": CHUNKED + b"+2\r\nab\r\n0\r\n\r\n",
    "chunk size with a prefix": CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffffffff\r\nab\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"2\r\nabcd\r\n0\r\n\r\n",
    "chunk size that ends with LF": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "chunk that ends with LF": CHUNKED + b"2\r\nab\n0\r\n\r\n",
    "chunk extension without end": CHUNKED + b"2;" + b"x" * 200_000 + b"\r\nab\r\n0\r\n\r\n",
    "trailers without end": CHUNKED + b"0\r\n" + b"x: y\r\n" * 40_000 + b"\r\n",
    "length in the trailers": CHUNKED + b"2\r\nab\r\n0\r\ncontent-length: 9\r\n\r\n",
}

UNDECODED: Final = {
    "coding that we cannot undo": ok(b"content-encoding: compress"),
    "four codings": ok(b"content-encoding: gzip, gzip, gzip, gzip"),
    "coding that is broken": ok(b"content-encoding: gzip"),
    "coding that is cut off": ok(b"content-encoding: gzip", body=GZIPPED[:-4]),
    "checksum that is wrong": ok(b"content-encoding: gzip", body=GZIPPED[:-8] + bytes(4) + GZIPPED[-4:]),
    "bytes behind a coding": ok(b"content-encoding: gzip", body=GZIPPED + b"junk"),
}  # fmt: skip

CUT_OFF: Final = {
    "nothing": b"",
    "head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "interim response alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "body": ok(b"content-length: 3", length=False),
    "chunk": CHUNKED + b"5\r\nab",
    "last chunk": CHUNKED + b"2\r\nab\r\n",
    "trailers": CHUNKED + b"2\r\nab\r\n0\r\n",
}


@pytest.mark.parametrize("case", TAKEN.values(), ids=TAKEN)
async def test_harmless_deviation_is_taken_by_both_transports(rig: Rig, case: Taken) -> None:
    service = Service(case.raw, closes=case.closes)
    async with service.listening() as url:
        caller = rig.caller(url)
        answer = await caller.ask(method=case.method)
        assert (answer.status, answer.body) == (case.status, case.body)
        assert (await caller.ask()).body == b"good"
        assert service.connections == (1 if case.is_kept else 2)
        await caller.transport.aclose()


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
async def test_dangerous_deviation_is_refused_by_both_transports(rig: Rig, raw: bytes) -> None:
    error = await failed(rig, raw, closes=raw.count(b"\r\n\r\n") == 0)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("raw", UNDECODED.values(), ids=UNDECODED)
async def test_body_that_cannot_be_decoded_is_refused_and_costs_no_connection(rig: Rig, raw: bytes) -> None:
    """The framing is sound, so the connection is as good as before."""
    error = await failed(rig, raw, closes=False, connections=1)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("raw", CUT_OFF.values(), ids=CUT_OFF)
async def test_response_that_is_cut_off_is_never_taken(rig: Rig, raw: bytes) -> None:
    """RFC 9112 section 8."""
    error = await failed(rig, raw, closes=True)
    assert isinstance(error, ConnectionLost)


@pytest.mark.parametrize("raw", [ok(b"content-length: 10001", length=False), CHUNKED + b"2711\r\n" + b"x" * 10_001 + b"\r\n0\r\n\r\n"])
async def test_response_over_the_limit_is_refused_by_both_transports(rig: Rig, raw: bytes) -> None:
    error = await failed(rig, raw, closes=False)
    assert isinstance(error, ResponseTooLarge)


async def failed(rig: Rig, raw: bytes, *, closes: bool, connections: int = 2) -> UpstreamError:
    """The error for a POST that is answered with `raw`: it may have been processed, is not sent again, and costs the next request nothing."""
    service = Service(raw, closes=closes)
    async with service.listening() as url:
        caller = rig.caller(url, max_response=10_000)
        with pytest.raises(UpstreamError) as caught:
            await caller.ask(method="POST", within_s=5.0)
        assert service.requests == 1
        assert caught.value.may_be_processed
        assert (await caller.ask()).body == b"good"
        assert service.connections == connections
        await caller.transport.aclose()
    return caught.value
