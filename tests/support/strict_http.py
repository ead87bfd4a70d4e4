"""What a byte sequence says to a server that follows RFC 9112 to the letter: these requests, in this order, and how the connection ends.

Written apart from the server's parser, section by section and in other terms (one pattern for each rule of the grammar), so that the two can
be compared. Slow and simple. Where the RFC leaves a choice between repairing and refusing, this reading refuses.
"""

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import Final

Fields = list[tuple[bytes, bytes]]

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_OWS: Final = rb"[ \t]*"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_FIELD_LINE: Final = re.compile(rb"(" + _TOKEN + rb"):" + _OWS + rb"((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)" + _OWS + rb"\r\n")
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]+)(?:"
    + _OWS
    + rb";"
    + _OWS
    + _TOKEN
    + rb"(?:"
    + _OWS
    + rb"="
    + _OWS
    + rb"(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED
    + rb"))?)*\r\n"
)
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f][0-9A-Fa-f])+)(?::([0-9]*))?")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)(/[^?]*)?(?:\?(.*))?")


@dataclass(frozen=True, kw_only=True)
class Request:
    """`target`: the path ("*" for the server as a whole). `fields`: names in lower case; Host is what the target says."""

    method: bytes
    target: bytes
    query: bytes
    fields: Fields
    body: bytes


@dataclass(kw_only=True)
class Reading:
    """`requests`: to be answered, in this order. `is_refused`: what follows them is no request: it is answered with 4xx or 5xx, and the connection
    closed. `is_incomplete`: the bytes end amid a request, which may be refused."""

    requests: list[Request] = field(default_factory=list)
    is_refused: bool = False
    is_incomplete: bool = False


class _Refused(Exception):
    """RFC 9112: this is no request, or not one for this server."""


class _Incomplete(Exception):
    """The bytes end here."""


def read(data: bytes, *, max_head_bytes: int = 64 * 1024) -> Reading:
    """Read everything that a client has sent on a connection, after which it shut down its side."""
    reading = Reading()
    at = 0
    while True:
        while data.startswith(b"\r\n", at):  # 2.2: empty lines before a request-line
            at += 2
        if at == len(data) or data[at:] == b"\r":
            return reading
        try:
            request, at, keeps_alive = _request(data, at, max_head_bytes)
        except _Refused:
            reading.is_refused = True
            return reading
        except _Incomplete:
            reading.is_incomplete = True
            return reading
        reading.requests.append(request)
        if not keeps_alive:
            return reading


def _request(data: bytes, at: int, max_head_bytes: int) -> tuple[Request, int, bool]:
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        raise _Incomplete  # or refused: what is wrong with it makes no difference any more
    if end - at > max_head_bytes:
        raise _Refused
    head, at = data[at : end + 2], end + 4
    method, target, minor, fields = _lines(head)
    if method == b"CONNECT":
        raise _Refused
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (minor and not hosts) or not all(map(_is_host, hosts)):  # 3.2
        raise _Refused
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
    elif target == b"*" and method == b"OPTIONS":  # 3.2.4
        path, query = target, b""
    else:  # 3.2.2
        found = _ABSOLUTE.fullmatch(target)
        if found is None or not _is_host(found[1]):
            raise _Refused
        path, query = found[2] or b"/", found[3] or b""
        if method == b"OPTIONS" and target.endswith(found[1]):
            path = b"*"
        fields = [(b"host", found[1]), *(pair for pair in fields if pair[0] != b"host")]
    expectations = _list(fields, b"expect")
    if minor and any(name == b"expect" for name, _ in fields) and expectations != [b"100-continue"]:  # RFC 9110 section 10.1.1
        raise _Refused
    body, at = _body(data, at, minor, fields)
    keeps_alive = minor > 0 and b"close" not in _list(fields, b"connection")  # 9.3
    return Request(method=method, target=path, query=query, fields=fields, body=body), at, keeps_alive


def _lines(head: bytes) -> tuple[bytes, bytes, int, Fields]:
    """3, 5: the request line and the field lines, to the last byte."""
    found = _REQUEST_LINE.match(head)
    if found is None or found[3] != b"1" or b"#" in found[2]:
        raise _Refused
    fields: Fields = []
    at = found.end()
    while at < len(head):
        line = _FIELD_LINE.match(head, at)
        if line is None:
            raise _Refused
        fields.append((line[1].lower(), line[2]))
        at = line.end()
    return found[1], found[2], int(found[4]), fields


def _body(data: bytes, at: int, minor: int, fields: Fields) -> tuple[bytes, int]:
    """6.3: how long the body is."""
    lengths = [value for name, value in fields if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in fields):
        if lengths or minor == 0 or _list(fields, b"transfer-encoding") != [b"chunked"]:
            raise _Refused
        return _chunked(data, at)
    if not lengths:
        return b"", at
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]) or int(lengths[0][-4000:]) >= 10**18:
        raise _Refused
    end = at + int(lengths[0])
    if end > len(data):
        raise _Incomplete
    return data[at:end], end


def _chunked(data: bytes, at: int) -> tuple[bytes, int]:
    """7.1: chunks, last chunk, trailer section."""
    content = b""
    while True:
        line = _CHUNK_LINE.match(data, at)
        if line is None:
            raise _fault_or_end(data, at)
        size, at = int(line[1], 16), line.end()
        if size >= 16**15:
            raise _Refused
        if size == 0:
            break
        if at + size + 2 > len(data):
            raise _fault_or_end(data, at + size) if not b"\r\n".startswith(data[at + size :]) else _Incomplete
        if data[at + size : at + size + 2] != b"\r\n":
            raise _Refused
        content, at = content + data[at : at + size], at + size + 2
    while not data.startswith(b"\r\n", at):
        line = _FIELD_LINE.match(data, at)
        if line is None:
            raise _fault_or_end(data, at)
        at = line.end()
    return content, at + 2


def _fault_or_end(data: bytes, at: int) -> Exception:
    """A line that is not whole may still become right."""
    return _Refused() if b"\n" in data[at:] else _Incomplete()


def _is_host(value: bytes) -> bool:
    """RFC 9110 sections 4.2.1, 4.2.4 and 7.2: a host that is not empty, and a port that a socket can have."""
    found = _HOST.fullmatch(value)
    if found is None or len(value) > 261 or int(found[2] or b"0") > 65535 or len(found[2] or b"") > 5:
        return False
    if not value.startswith(b"["):
        return True
    try:
        IPv6Address(found[1][1:-1].decode())
    except AddressValueError:
        return False
    return True


def _list(fields: Fields, name: bytes) -> list[bytes]:
    """RFC 9110 section 5.6.1.2: the elements of a list field on all its lines, without the empty ones."""
    parts = [part.strip(b" \t").lower() for key, value in fields if key == name for part in value.split(b",")]
    return [part for part in parts if part]
