"""What RFC 9112 (sections 2, 3, 5, 6, 7, 9, 11) and RFC 9110 (sections 5, 7, 8.4, 8.6, 9.3, 10.1.1) demand of a server, over a real socket.

Each row and each test names its section; "9112-2.2" is RFC 9112 section 2.2. Bodies in a content coding (RFC 9110 section 8.4) are the application's
matter: tests/specs/reading_requests.yaml.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.eventually import eventually
from tests.support.head_server import PATIENCE_S, Application, Bounded, HeadServer, answer, rest, serving

HOST: Final = b"Host: a.test\r\n"
END: Final = b"Connection: close\r\n\r\n"
INNER: Final = b"GET /inner HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Mirror(Application):
    """Responds with what it was asked, as JSON. `/answer?NAME`: responds with what RESPONSES has; `/slow` waits for `gate` first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(scope["path"])
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/slow":
            leaving = asyncio.ensure_future(receive())
            gating = asyncio.ensure_future(self.gate.wait())
            await asyncio.wait((leaving, gating), return_when=asyncio.FIRST_COMPLETED)
            gating.cancel()
            if leaving.done():
                self.gone.append(scope["path"])
                return
            leaving.cancel()
        if scope["path"] == "/answer":
            status, fields, pieces = RESPONSES[scope["query_string"].decode()]
            await send({"type": "http.response.start", "status": status, "headers": fields})
            for number, piece in enumerate(pieces, 1):
                await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
            return
        asked = {
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "version": scope["http_version"],
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        content = json.dumps(asked).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
        await send({"type": "http.response.body", "body": content})


RESPONSES: Final[dict[str, tuple[int, list[tuple[bytes, bytes]], list[bytes]]]] = {
    "sized": (200, [(b"content-length", b"5")], [b"hello"]),
    "unsized": (200, [], [b"hel", b"lo"]),
    "empty": (200, [], [b""]),
    "both": (200, [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], [b"hello"]),
    "204": (204, [(b"content-length", b"5")], [b""]),
    "204-body": (204, [], [b"hello"]),
    "205": (205, [(b"content-length", b"5")], [b"hello"]),
    "304": (304, [(b"content-length", b"5"), (b"etag", b'"1"')], [b""]),
    "close": (200, [(b"content-length", b"5"), (b"connection", b"close")], [b"hello"]),
    "split": (200, [(b"x-a", b"1\r\nx-b: 2"), (b"content-length", b"5")], [b"hello"]),
    "split-name": (200, [(b"x-a: 1\r\nx-b", b"2"), (b"content-length", b"5")], [b"hello"]),
    "short": (200, [(b"content-length", b"9")], [b"hello"]),
    "long": (200, [(b"content-length", b"4")], [b"hello"]),
}


class Roomy(Bounded):
    """Heads as large as RFC 9112 section 3 wants them to be supported."""

    max_head_bytes = 16 * 1024


@pytest.fixture
async def server() -> AsyncIterator[HeadServer]:
    async with serving(Roomy, app=Mirror()) as found:
        yield found


def count(received: bytes) -> int:
    """The responses in `received`, none of which has a status line in its body."""
    return len(re.findall(rb"HTTP/1\.1 [1-5][0-9]{2} ", received))


async def asked(server: HeadServer, raw: bytes) -> dict[str, Any]:
    """What the application was asked by the request `raw`, which closes its connection."""
    received = await server.exchange(raw)
    assert received.startswith(b"HTTP/1.1 200"), received
    assert count(received) == 1
    found: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])
    return found


GET: Final = b"GET / HTTP/1.1\r\n" + HOST
POST: Final = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n"

READ: Final = {
    "9112-2.2 an empty line before the request is ignored": (b"\r\n\r\n" + GET + END, {"path": "/"}),
    "9112-2.2 a message is octets, not text": (GET + b"X: \xff\xc3\xbc\r\n" + END, {"headers": ["x", "ÿÃ¼"]}),
    "9112-2.3 a higher minor version is the highest known one": (b"GET / HTTP/1.9\r\n" + HOST + END, {"version": "1.1"}),
    "9112-2.3 HTTP/1.0 is read": (b"GET / HTTP/1.0\r\n\r\n", {"version": "1.0"}),
    "9112-3 a request line of 8,000 bytes": (b"GET /" + b"a" * 7979 + b" HTTP/1.1\r\n" + HOST + END, {"path": "/" + "a" * 7979}),
    "9112-3.1 methods are case-sensitive": (b"get / HTTP/1.1\r\n" + HOST + END, {"method": "get"}),
    "9112-3.1 a method is any token": (b"M!#$%&'*+-.^_`|~9 / HTTP/1.1\r\n" + HOST + END, {"method": "M!#$%&'*+-.^_`|~9"}),
    "9112-3.2.1 origin-form": (b"GET /a%2Fb?c=%20 HTTP/1.1\r\n" + HOST + END, {"path": "/a/b", "raw_path": "/a%2Fb", "query": "c=%20"}),
    "9112-3.2.1 a path may begin with two slashes": (b"GET //b/c HTTP/1.1\r\n" + HOST + END, {"path": "//b/c"}),
    "9112-3.2.2 absolute-form": (b"GET http://b.test/c?d HTTP/1.1\r\n" + HOST + END, {"path": "/c", "query": "d", "headers": ["host", "b.test"]}),
    "9112-3.2.2 absolute-form in capitals": (b"GET HTTPS://B.test:80/c HTTP/1.1\r\n" + HOST + END, {"path": "/c", "headers": ["host", "B.test:80"]}),
    "9112-3.2.2 absolute-form without a path": (b"GET http://b.test?d HTTP/1.1\r\n" + HOST + END, {"path": "/", "query": "d"}),
    "9112-3.2 Host of HTTP/1.0 may be missing": (b"GET /x HTTP/1.0\r\n\r\n", {"path": "/x"}),
    "9112-3.2 Host with a port": (b"GET / HTTP/1.1\r\nHost: a.test:8080\r\n" + END, {"headers": ["host", "a.test:8080"]}),
    "9112-3.2 Host with an empty port": (b"GET / HTTP/1.1\r\nHost: a.test:\r\n" + END, {"headers": ["host", "a.test:"]}),
    "9112-3.2 Host as an IPv6 address": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n" + END, {"headers": ["host", "[::1]:80"]}),
    "9112-5.1 whitespace around a value is no part of it": (GET + b"X: \t a b \t\r\n" + END, {"headers": ["x", "a b"]}),
    "9112-5.1 no whitespace is needed": (GET + b"X:a\r\n" + END, {"headers": ["x", "a"]}),
    "9110-5.1 field names are case-insensitive": (POST + b"cOnTeNt-LeNgTh: 2\r\n" + END + b"ab", {"body": "ab", "headers": ["content-length", "2"]}),
    "9110-5.5 a value may be empty": (GET + b"X:\r\n" + END, {"headers": ["x", ""]}),
    "9110-5.3 lines of one field keep their order": (GET + b"X: 1\r\nY: 2\r\nX: 3\r\n" + END, {"order": [["x", "1"], ["y", "2"], ["x", "3"]]}),
    "9110-5.6.1 empty list elements are ignored": (GET + b"Connection: , ,close,\r\n\r\n", {"path": "/"}),
    "9112-6.3 without a length there is no body": (POST + END, {"body": ""}),
    "9112-6.3 a length may have leading zeros": (POST + b"Content-Length: 0002\r\n" + END + b"ab", {"body": "ab"}),
    "9110-9.3.1 a body of GET belongs to it": (GET + b"Content-Length: 37\r\n" + END + INNER, {"method": "GET", "body": INNER.decode()}),
    "9112-6.1 coding names are case-insensitive": (POST + b"Transfer-Encoding: Chunked\r\n" + END + b"0\r\n\r\n", {"body": ""}),
    "9112-6.1 empty elements beside chunked": (POST + b"Transfer-Encoding: ,chunked ,\r\n" + END + b"1\r\na\r\n0\r\n\r\n", {"body": "a"}),
    "9112-7.1 chunks": (CHUNKED + END + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", {"body": "abcde"}),
    "9112-7.1 sizes are hexadecimal": (CHUNKED + END + b"0A\r\n0123456789\r\nb\r\n0123456789a\r\n000\r\n\r\n", {"body": "01234567890123456789a"}),
    "9112-7.1 data is not looked into": (CHUNKED + END + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", {"body": "\r\n0\r\n\r\n"}),
    "9112-7.1.1 extensions are ignored": (CHUNKED + END + b'1;a;b=c ; d = "e;\\""\r\nx\r\n0;last\r\n\r\n', {"body": "x"}),
    "9112-7.1.2 trailers do not become fields": (CHUNKED + END + b"1\r\nx\r\n0\r\nHost: b.test\r\nX: 1\r\n\r\n", {"body": "x", "no": "x"}),
    "9110-7.8 an offer is ignored": (GET + b"Upgrade: websocket, h2c\r\nConnection: upgrade, close\r\n\r\n", {"path": "/"}),
    "9110-7.8 the body of an offer belongs to it": (
        POST + b"Upgrade: x\r\nContent-Length: 37\r\nConnection: upgrade, close\r\n\r\n" + INNER, {"body": INNER.decode()},
    ),
    "9110-7.8 an offer of HTTP/1.0 is ignored": (b"GET / HTTP/1.0\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", {"version": "1.0"}),
    "9110-10.1.1 an expectation of HTTP/1.0 is ignored": (b"POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\na", {"body": "a"}),
    "9110-10.1.1 expectations are case-insensitive": (POST + b"Expect: 100-Continue\r\nContent-Length: 0\r\n" + END, {"body": ""}),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), READ.values(), ids=READ)
async def test_server_must_read(server: HeadServer, raw: bytes, expected: dict[str, Any]) -> None:
    found = await asked(server, raw)
    fields = found.pop("headers")
    order = [field for field in fields if field[0] in {"x", "y"}]
    assert expected.get("headers", fields[0] if fields else None) in [*fields, None]
    assert order == expected.get("order", order)
    assert expected.get("no") not in [name for name, _ in fields]
    assert [name for name, _ in fields].count("host") <= 1
    wanted = {name: value for name, value in expected.items() if name in found}
    assert {name: found[name] for name in wanted} == wanted


REFUSED: Final = {
    "9112-2.2 bare CR in the request line": (400, b"GET /\r HTTP/1.1\r\n" + HOST + END),
    "9112-2.2 bare CR in a field": (400, GET + b"X: a\rb\r\n" + END),
    "9112-2.2 bare LF after the request line": (400, b"GET / HTTP/1.1\n" + HOST + END),
    "9112-2.2 bare LF after a field": (400, GET + b"X: a\n" + END),
    "9112-2.2 bare LF before the request": (400, b"\n" + GET + END),
    "9112-2.2 whitespace before the first field": (400, b"GET / HTTP/1.1\r\n " + HOST + END),
    "9112-2.2 whitespace before the request": (400, b" GET / HTTP/1.1\r\n" + HOST + END),
    "9112-2.2 a byte order mark": (400, b"\xef\xbb\xbfGET / HTTP/1.1\r\n" + HOST + END),
    "9112-2.3 the name of the version is case-sensitive": (400, b"GET / http/1.1\r\n" + HOST + END),
    "9112-2.3 a version has two digits": (400, b"GET / HTTP/1.10\r\n" + HOST + END),
    "9112-2.3 HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "9110-15.6.6 another major version": (505, b"GET / HTTP/2.0\r\n" + HOST + END),
    "9110-15.6.6 a version before HTTP/1": (505, b"GET / HTTP/0.9\r\n\r\n"),
    "9112-3 two spaces": (400, b"GET  / HTTP/1.1\r\n" + HOST + END),
    "9112-3 a tab for a space": (400, b"GET\t/ HTTP/1.1\r\n" + HOST + END),
    "9112-3 a space at the end": (400, b"GET / HTTP/1.1 \r\n" + HOST + END),
    "9112-3 no target": (400, b"GET  HTTP/1.1\r\n" + HOST + END),
    "9112-3.2 a space in the target": (400, b"GET /a b HTTP/1.1\r\n" + HOST + END),
    "9112-3 a target that is too long": (414, b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + HOST + END),
    "9112-3.1 a method that is no token": (400, b"G@T / HTTP/1.1\r\n" + HOST + END),
    "9112-3.2 no Host": (400, b"GET / HTTP/1.1\r\n" + END),
    "9112-3.2 two Hosts": (400, GET + HOST + END),
    "9112-3.2 two Hosts of HTTP/1.0": (400, b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n"),
    "9112-3.2 Host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a.test\r\n" + END),
    "9112-3.2 Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a.test/x\r\n" + END),
    "9112-3.2 Host as a list": (400, b"GET / HTTP/1.1\r\nHost: a.test, b.test\r\n" + END),
    "9112-3.2 Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a test\r\n" + END),
    "9112-3.2 Host with a port that is none": (400, b"GET / HTTP/1.1\r\nHost: a.test:x\r\n" + END),
    "9112-3.2 Host with a port that no socket has": (400, b"GET / HTTP/1.1\r\nHost: a.test:65536\r\n" + END),
    "9112-3.2 Host with two ports": (400, b"GET / HTTP/1.1\r\nHost: a.test:80:80\r\n" + END),
    "9112-3.2 Host as half an address": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n" + END),
    "9112-3.2 Host as an address that is none": (400, b"GET / HTTP/1.1\r\nHost: [1::2::3]\r\n" + END),
    "9110-4.2.1 an empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n" + END),
    "9112-3.2.2 an absolute target without a host": (400, b"GET http:///x HTTP/1.1\r\n" + HOST + END),
    "9110-4.2.4 an absolute target with a user": (400, b"GET http://u:p@b.test/ HTTP/1.1\r\n" + HOST + END),
    "9112-3.2.2 a scheme that is none of ours": (400, b"GET ftp://b.test/ HTTP/1.1\r\n" + HOST + END),
    "9112-3.2.2 Host is checked beside an absolute target": (400, b"GET http://b.test/ HTTP/1.1\r\nHost: a b\r\n" + END),
    "9112-3.2.3 authority-form is for CONNECT": (400, b"GET a.test:80 HTTP/1.1\r\n" + HOST + END),
    "9112-3.2.4 asterisk-form is for OPTIONS": (400, b"GET * HTTP/1.1\r\n" + HOST + END),
    "9112-3.2 a target without a slash": (400, b"GET index.html HTTP/1.1\r\n" + HOST + END),
    "9112-3.2 a target with a fragment": (400, b"GET /#x HTTP/1.1\r\n" + HOST + END),
    "9112-3.2 a target with a byte that is not ASCII": (400, b"GET /\xc3\xbc HTTP/1.1\r\n" + HOST + END),
    "9112-5.1 whitespace before a colon": (400, GET + b"X : a\r\n" + END),
    "9112-5.1 whitespace before the colon of a length": (400, POST + b"Content-Length : 39\r\n" + END + INNER),
    "9112-5.1 a field without a colon": (400, GET + b"X\r\n" + END),
    "9112-5.1 a field without a name": (400, GET + b": a\r\n" + END),
    "9110-5.1 a name that is no token": (400, GET + b"X(y): a\r\n" + END),
    "9110-5.1 a name that is not ASCII": (400, GET + b"X\xc3\xbc: a\r\n" + END),
    "9112-5.2 a folded field": (400, GET + b"X: a\r\n b\r\n" + END),
    "9112-5.2 a folded transfer coding": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n" + END + b"0\r\n\r\n"),
    "9110-5.5 NUL": (400, GET + b"X: a\x00b\r\n" + END),
    "9110-5.5 a control character": (400, GET + b"X: a\x7fb\r\n" + END),
    "9110-5.5 a vertical tab around a coding": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n" + END + b"0\r\n\r\n"),
    "9110-5.4 fields that are too large": (431, GET + b"X: " + b"a" * 20000 + b"\r\n" + END),
    "9112-6.1 an unknown coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n" + END + b"0\r\n\r\n"),
    "9112-6.1 chunked is not the last coding": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n" + END + b"0\r\n\r\n"),
    "9112-6.1 chunked is missing": (400, POST + b"Transfer-Encoding: gzip\r\n" + END),
    "9112-6.1 identity is no coding any more": (400, POST + b"Transfer-Encoding: identity\r\n" + END),
    "9112-6.1 no coding at all": (400, POST + b"Transfer-Encoding:\r\n" + END),
    "9112-6.1 chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n" + END + b"0\r\n\r\n"),
    "9112-6.1 chunked on two lines": (400, CHUNKED + b"Transfer-Encoding: chunked\r\n" + END + b"0\r\n\r\n"),
    "9112-7 chunked has no parameters": (400, POST + b"Transfer-Encoding: chunked;a=b\r\n" + END + b"0\r\n\r\n"),
    "9112-6.1 a coding in quotes": (400, POST + b'Transfer-Encoding: "chunked"\r\n' + END + b"0\r\n\r\n"),
    "9112-6.1 a coding of HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "9112-6.3 length and coding": (400, CHUNKED + b"Content-Length: 5\r\n" + END + b"0\r\n\r\n"),
    "9112-6.3 coding and length": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + END + b"0\r\n\r\n"),
    "9112-6.3 two lengths": (400, POST + b"Content-Length: 1\r\nContent-Length: 37\r\n" + END + INNER),
    "9112-6.3 a list of lengths": (400, POST + b"Content-Length: 1, 1\r\n" + END + b"a"),
    "9112-6.3 a length with a sign": (400, POST + b"Content-Length: +1\r\n" + END + b"a"),
    "9112-6.3 a negative length": (400, POST + b"Content-Length: -1\r\n" + END),
    "9112-6.3 a hexadecimal length": (400, POST + b"Content-Length: 0x1\r\n" + END + b"a"),
    "9112-6.3 an empty length": (400, POST + b"Content-Length:\r\n" + END),
    "9112-6.3 a length in other digits": (400, POST + "Content-Length: \u0661\r\n".encode() + END + b"a"),
    "9112-6.3 a length with an underscore": (400, POST + b"Content-Length: 1_0\r\n" + END + b"0123456789"),
    "9110-8.6 a length beyond every integer": (400, POST + b"Content-Length: 184467440737095516170\r\n" + END),
    "9112-7.1 a size that is no number": (400, CHUNKED + END + b"x\r\n"),
    "9112-7.1 a size with a sign": (400, CHUNKED + END + b"+1\r\na\r\n0\r\n\r\n"),
    "9112-7.1 a size with a prefix": (400, CHUNKED + END + b"0x1\r\na\r\n0\r\n\r\n"),
    "9112-7.1 a size after a space": (400, CHUNKED + END + b" 1\r\na\r\n0\r\n\r\n"),
    "9112-7.1 an empty size": (400, CHUNKED + END + b"\r\na\r\n0\r\n\r\n"),
    "9112-7.1 a size beyond every integer": (400, CHUNKED + END + b"10000000000000001\r\na\r\n0\r\n\r\n"),
    "9112-7.1 a bare LF after a size": (400, CHUNKED + END + b"1\na\r\n0\r\n\r\n"),
    "9112-7.1 a bare LF after data": (400, CHUNKED + END + b"1\r\na\n0\r\n\r\n"),
    "9112-7.1 more data than the size says": (400, CHUNKED + END + b"1\r\nab\r\n0\r\n\r\n"),
    "9112-7.1.1 an extension with a bare LF": (400, CHUNKED + END + b"1;a\nb\r\na\r\n0\r\n\r\n"),
    "9112-7.1.1 an extension that is none": (400, CHUNKED + END + b"1;=\r\na\r\n0\r\n\r\n"),
    "9112-7.1.1 too many extensions": (400, CHUNKED + END + b"1;" + b"a" * 20000 + b"\r\na\r\n0\r\n\r\n"),
    "9112-7.1.2 a trailer without a colon": (400, CHUNKED + END + b"0\r\nX\r\n\r\n"),
    "9112-7.1.2 a folded trailer": (400, CHUNKED + END + b"0\r\nX: a\r\n b\r\n\r\n"),
    "9110-9.3.6 CONNECT opens no tunnel": (501, b"CONNECT a.test:443 HTTP/1.1\r\n" + HOST + END),
    "9110-9.3.6 CONNECT to what is no authority": (400, b"CONNECT /x HTTP/1.1\r\n" + HOST + END),
    "9110-10.1.1 an unknown expectation": (417, POST + b"Expect: 200-ok\r\n" + END),
}  # fmt: skip


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED)
async def test_server_must_refuse_and_close(server: HeadServer, status: int, raw: bytes) -> None:
    """Nothing behind such a request is read (RFC 9112 sections 2.2 and 9.6). It may come in one piece or byte by byte."""
    received = await server.exchange(GET + b"\r\n" + raw + INNER)
    assert received.startswith(b"HTTP/1.1 200")
    assert count(received) == 2
    refusal = received[received.index(b"HTTP/1.1 ", 1) :]
    assert int(refusal.split(b" ", 2)[1]) == status, refusal
    assert b"\r\nconnection: close\r\n" in refusal
    assert "/inner" not in server.app.seen
    if len(raw) < 1000:
        async with server.connected() as (reader, writer):
            for byte in raw:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            received = await rest(reader)
        assert (count(received), int(received.split(b" ", 2)[1])) == (1, status), received


# ------------------------------------------------------------------------------------------------------------- responses


def split(raw: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields and the rest of what was received."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    fields = dict(one.split(b": ", 1) for one in lines)
    assert len(fields) == len(lines)
    return int(line.split(b" ")[1]), fields, body


async def answered(server: HeadServer, name: str, method: bytes = b"GET", version: bytes = b"1.1") -> tuple[int, dict[bytes, bytes], bytes]:
    return split(await server.exchange(method + b" /answer?" + name.encode() + b" HTTP/" + version + b"\r\n" + HOST + END))


async def test_9112_2_3_version_of_the_response_is_the_servers(server: HeadServer) -> None:
    assert (await server.exchange(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_9112_6_1_chunks_are_for_http_1_1(server: HeadServer) -> None:
    assert (await answered(server, "unsized"))[1:] == ((await answered(server, "unsized"))[1], b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    status, fields, body = await answered(server, "unsized", version=b"1.0")
    assert (status, body, fields[b"connection"]) == (200, b"hello", b"close")
    assert b"transfer-encoding" not in fields


async def test_9112_6_2_one_way_to_say_the_length(server: HeadServer) -> None:
    _, fields, body = await answered(server, "both")
    assert (fields[b"content-length"], b"transfer-encoding" in fields, body) == (b"5", False, b"hello")


@pytest.mark.parametrize("name", ["204", "204-body"])
async def test_9112_6_1_and_9110_8_6_no_length_and_no_body_with_204(server: HeadServer, name: str) -> None:
    status, fields, body = await answered(server, name)
    assert (status, body) == (204, b"")
    assert not fields.keys() & {b"content-length", b"transfer-encoding"}


async def test_9110_15_3_6_no_body_with_205(server: HeadServer) -> None:
    status, fields, body = await answered(server, "205")
    assert (status, fields[b"content-length"], body) == (205, b"0", b"")


async def test_9112_6_3_no_body_with_304(server: HeadServer) -> None:
    status, fields, body = await answered(server, "304")
    assert (status, fields[b"content-length"], body) == (304, b"5", b"")


@pytest.mark.parametrize("name", ["sized", "unsized"])
async def test_9110_9_3_2_no_body_for_head(server: HeadServer, name: str) -> None:
    status, fields, body = await answered(server, name, b"HEAD")
    assert (status, body) == (200, b"")
    assert fields.get(b"content-length") == (b"5" if name == "sized" else None)


async def test_9110_9_3_2_no_body_for_head_when_it_is_refused(server: HeadServer) -> None:
    status, fields, body = split(await server.exchange(b"HEAD / HTTP/1.1\r\n\r\n"))
    assert (status, body) == (400, b"")
    assert int(fields[b"content-length"]) > 0


@pytest.mark.parametrize("name", ["split", "split-name"])
async def test_9112_11_1_response_is_never_split(server: HeadServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    status, fields, _ = await answered(server, name)
    assert (status, b"x-b" in fields) == (500, False)
    assert "control character" in caplog.text or "not a token" in caplog.text


@pytest.mark.parametrize("name", ["short", "long"])
async def test_9110_8_6_body_is_as_long_as_its_length_or_cut_off(server: HeadServer, name: str) -> None:
    raw = await server.exchange(b"GET /answer?" + name.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n" + INNER)
    assert count(raw) == 1  # the connection ends, so that nothing else is taken for the rest of the body
    assert len(split(raw)[2]) <= (5 if name == "short" else 4)


# ----------------------------------------------------------------------------------------------------------- connections


async def test_9112_9_3_connections_persist(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        for _ in range(3):
            writer.write(GET + b"\r\n")
            assert b"connection: close" not in await answer(reader)


@pytest.mark.parametrize(
    "raw",
    [GET + END, GET + b"Connection: x, Close\r\n\r\n", GET + b"Connection: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
)
async def test_9112_9_6_close_is_said_and_done_and_nothing_behind_it_is_served(server: HeadServer, raw: bytes) -> None:
    received = await server.exchange(raw + INNER)
    assert (count(received), b"\r\nconnection: close\r\n" in received) == (1, True)
    assert server.app.seen == ["/"]


async def test_9112_9_6_nothing_is_served_behind_a_response_that_closes(server: HeadServer) -> None:
    received = await server.exchange(b"GET /answer?close HTTP/1.1\r\n" + HOST + b"\r\n" + INNER)
    assert (count(received), b"\r\nconnection: close\r\n" in received) == (1, True)
    assert server.app.seen == ["/answer"]


async def test_9112_9_3_2_pipelined_requests_are_answered_in_order(server: HeadServer) -> None:
    many = b"".join(b"POST /%d HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc" % number for number in range(50))
    raw = await server.exchange(many + GET + END)
    at = [raw.index(b'"path": "/%d"' % number) for number in range(50)]
    assert at == sorted(at)
    assert raw.count(b"HTTP/1.1 200") == 51


async def test_9112_9_3_body_that_the_application_does_not_read_is_read_past() -> None:
    async with serving(Roomy) as server:
        raw = await server.exchange(b"POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 37\r\n\r\n" + INNER + GET + END)
    assert (raw.count(b"HTTP/1.1 200"), server.app.seen) == (2, ["/early", "/"])


async def test_9112_9_6_client_can_read_the_response_while_it_still_sends(server: HeadServer) -> None:
    """A reset would take the response with it, so the server reads on for a moment after it has closed its side."""
    async with server.connected() as (reader, writer):
        writer.write(GET + END)
        for _ in range(50):
            writer.write(b"a" * 65536)
        received = await rest(reader)
    assert received.startswith(b"HTTP/1.1 200")


async def test_9110_10_1_1_client_that_waits_is_told_to_send(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n" + END)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert b'"body": "abc"' in await rest(reader)


async def test_9110_10_1_1_client_that_does_not_wait_is_not_told(server: HeadServer) -> None:
    assert b"100 Continue" not in await server.exchange(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n" + END + b"abc")


async def test_9110_10_1_1_body_may_come_or_not_after_a_final_response() -> None:
    """So the connection closes: what comes next would be a request or the body."""
    async with serving(Roomy) as server, server.connected() as (reader, writer):
        writer.write(b"POST /early HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 37\r\n\r\n")
        first = await answer(reader)
        writer.write(INNER)
        assert (b"\r\nconnection: close\r\n" in first, await rest(reader), server.app.seen) == (True, b"", ["/early"])


async def test_9110_9_3_7_options_of_the_server(server: HeadServer) -> None:
    for target in (b"*", b"http://a.test"):
        status, fields, body = split(await server.exchange(b"OPTIONS " + target + b" HTTP/1.1\r\n" + HOST + END))
        assert (status, body) == (204, b"")
        assert b"GET" in fields[b"allow"]
    assert server.app.seen == []


async def test_9110_6_6_1_responses_have_a_date(server: HeadServer) -> None:
    for raw in (GET + END, b"GET / HTTP/1.1\r\n\r\n"):
        assert b"date" in split(await server.exchange(raw))[1]


# ----------------------------------------------------------------------------------------------------------- half-closed


@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n"])
async def test_9112_9_6_client_that_shut_down_its_sending_side_is_answered(server: HeadServer, fields: bytes) -> None:
    async with server.connected() as (reader, writer):
        writer.write(b"POST /slow HTTP/1.1\r\n" + HOST + fields + b"Content-Length: 3\r\n\r\nabc")
        writer.write_eof()
        await server.until_seen("/slow")
        assert server.app.gone == []
        server.app.gate.set()
        raw = await rest(reader)
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"body": "abc"' in raw


async def test_9112_9_6_everything_that_came_before_is_answered(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write((POST + b"Content-Length: 3\r\n\r\nabc") * 20)
        writer.write_eof()
        raw = await rest(reader)
    assert (raw.count(b"HTTP/1.1 200 OK\r\n"), count(raw)) == (20, 20)


@pytest.mark.parametrize("raw", [POST + b"Content-Length: 9\r\n\r\nabc", CHUNKED + b"\r\n3\r\nabc\r\n", GET])
async def test_9112_8_request_that_is_not_complete_is_not_processed(server: HeadServer, raw: bytes) -> None:
    async with server.connected() as (reader, writer):
        writer.write(raw)
        writer.write_eof()
        status, fields, _ = split(await rest(reader))
    assert (status, fields[b"connection"]) == (400, b"close")
    await eventually(lambda: server.app.gone == server.app.seen)


@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("is_shut_before", [True, False], ids=["after a shutdown", "at once"])
async def test_client_that_has_gone_is_noticed(server: HeadServer, is_reset: bool, is_shut_before: bool) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        if is_shut_before:
            client.shutdown(socket.SHUT_WR)
        await server.until_seen("/slow")
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await eventually(lambda: server.app.gone == ["/slow"])
    await eventually(lambda: server.connections == [])
