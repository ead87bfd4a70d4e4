"""Parses the head of a request: request line and header fields. Pure: bytes in, a `Head` or a RefusedRequest out.

Strict, because a gateway that reads a message otherwise than what stands in front of it can be made to serve one client's request to another.
What RFC 9112 lets a recipient repair (bare LF, several spaces, folded lines, repeated lengths) is refused. What it says a recipient must
accept is accepted: optional whitespace around values, empty list elements, leading zeros, empty lines before a request, absolute targets.

**Source:** RFC 9112 sections 2 to 6, RFC 9110 sections 4.2, 5, 7.2, 7.8, 8.6 and 10.1.1; RFC 6455 section 4.2.1.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import msgspec

from anabranch.errors import ExpectationFailed, MalformedRequest, NotImplementedRequest, VersionNotSupported

Fields = list[tuple[bytes, bytes]]

CHUNKED: Final = -1
"""Value of `Head.length` for a body in chunks."""

_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789" + _LETTERS
"""The bytes of a token (RFC 9110 section 5.6.2)."""
TEXT: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""The bytes of a field value (RFC 9110 section 5.5): everything but control characters."""
_TARGET: Final = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))
"""The bytes of a request target. More than RFC 3986 has: browsers send brackets, bars and quotes in a query as they are."""
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)")
_AUTHORITY: Final = re.compile(rb"(?:(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_TLS_HANDSHAKE: Final = b"\x16\x03"
_STARTS: Final = frozenset({b"", b"\r", *(bytes((byte,)) for byte in TOKEN)})
_MAX_AUTHORITY_BYTES: Final = 255 + len(":65535")
_MAX_PORT: Final = 65535
_MAX_DIGITS: Final = 18
_PLAIN: Final = frozenset({b"keep-alive", b"Keep-Alive"})
_READ_HERE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})
_NAMES: Final = {
    spelling: name.encode()
    for name in (
        "accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection", "content-encoding", "content-length",
        "content-type", "cookie", "expect", "forwarded", "host", "idempotency-key", "if-modified-since", "if-none-match", "origin", "pragma",
        "referer", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site",
        "sec-fetch-user", "te", "traceparent", "tracestate", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "user-agent", "via",
        "x-api-key", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip", "x-request-id",
    )
    for spelling in (name.encode(), name.title().encode())
}  # fmt: skip
"""Usual field names as they are usually spelled, in lower case: no need to check and fold them for each request."""


class Head(msgspec.Struct, gc=False):
    """`target`: "*" for the server as a whole, else the percent-encoded path that begins with a slash. `query`: without its question mark.

    `version`: "1.1" or "1.0". `fields`: names in lower case, values without the whitespace around them. `length`: of the body in bytes, or
    CHUNKED. `keeps_alive`: the client allows further requests on this connection. `expects_continue`: it waits for a 100 before it sends
    the body. `offers_websocket`: it offers to go on with WebSocket.
    """

    method: str
    target: bytes
    query: bytes
    version: str
    fields: Fields
    length: int
    keeps_alive: bool
    expects_continue: bool
    offers_websocket: bool


def parse_head(raw: bytes) -> Head:
    """Parse a whole head, without the empty line that ends it.

    Raises MalformedRequest (400), ExpectationFailed (417), NotImplementedRequest (501), VersionNotSupported (505).
    """
    lines = raw.split(b"\r\n")
    if len(raw.translate(None, TEXT)) != 2 * (len(lines) - 1):
        raise _malformed(_control_character(raw))
    method, target, minor = parse_request_line(lines[0])
    del lines[0]
    fields: Fields = []
    read: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        lower = _NAMES.get(name)
        if lower is None:
            if not name or not colon or name.translate(None, TOKEN):
                raise _malformed(_bad_line(name, colon, is_first=not fields))
            lower = name.lower()
        elif not colon:
            raise _malformed(_bad_line(name, colon, is_first=not fields))
        value = value.strip(b" \t")
        fields.append((lower, value))
        if lower in _READ_HERE:
            if lower in read:
                value = _repeated(lower, read[lower], value)
            read[lower] = value
    return _head(method, target, minor, fields, read)


def check_beginning(raw: bytes, checked: int = 0) -> None:
    """Check the beginning of a head as far as that is possible; `checked`: how many bytes passed this check before.

    Raises MalformedRequest, VersionNotSupported.
    """
    if raw.startswith(_TLS_HANDSHAKE):
        raise MalformedRequest("this port speaks plain HTTP, not TLS; use http:// instead of https://")
    if checked and raw[checked - 1] == 0x0D:  # CR
        checked -= 1
    new = raw[checked:]
    line_ends = new.count(b"\r\n")
    if new.translate(None, TEXT + b"\r\n") or new.count(b"\n") != line_ends or new.count(b"\r") - new.endswith(b"\r") != line_ends:
        raise _malformed(_control_character(new.removesuffix(b"\r")))
    if checked == 0 and raw[:1] not in _STARTS:
        raise _malformed("the method is not a token")
    end = raw.find(b"\r\n")
    if end >= checked:
        parse_request_line(raw[:end])


def parse_request_line(line: bytes) -> tuple[bytes, bytes, int]:
    """Method, request target and minor version. Raises MalformedRequest, VersionNotSupported."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _malformed("the request line must be a method, a target and HTTP/1.1, with one space between them")
    method, target, version = parts
    if not method or method.translate(None, TOKEN):
        raise _malformed("the method is not a token")
    if not target or target.translate(None, _TARGET):
        raise _malformed("the target has characters that must be percent-encoded")
    if version == b"HTTP/1.1":
        return method, target, 1
    found = _VERSION.fullmatch(version)
    if found is None:
        raise _malformed("the request line does not end with HTTP/1.1")
    if found[1] != b"1":
        raise VersionNotSupported("this server speaks HTTP/1.1 and HTTP/1.0; configure the client to use HTTP/1.1")
    return method, target, int(found[2])


def _head(method: bytes, target: bytes, minor: int, fields: Fields, read: dict[bytes, bytes]) -> Head:
    """What the lines mean together. `read`: the fields of `_READ_HERE`, repeated ones joined."""
    host = read.get(b"host")
    if host is None:
        if minor:
            raise _malformed("the Host field is missing")
    else:
        _check_authority(host, "the Host field")
    if target[0] != 0x2F or method == b"CONNECT":  # 0x2F: "/"
        target = _unusual_target(method, target, fields)
    path, _, query = target.partition(b"?")
    connection = read.get(b"connection")
    keeps_alive = minor > 0
    if connection is not None and connection not in _PLAIN:
        keeps_alive = keeps_alive and b"close" not in elements(connection)
    expect = read.get(b"expect")
    expects_continue = False
    if expect is not None and minor:
        expects_continue = elements(expect) == [b"100-continue"]
        if not expects_continue:
            raise ExpectationFailed("the only expectation that this server meets is 100-continue")
    length = _length(minor, read)
    offers_websocket = b"upgrade" in read and method == b"GET" and minor > 0 and not length and _offers_websocket(read)
    version = "1.1" if minor else "1.0"
    return Head(method.decode(), path, query, version, fields, length, keeps_alive, expects_continue, offers_websocket)


def _offers_websocket(read: dict[bytes, bytes]) -> bool:
    return b"websocket" in elements(read[b"upgrade"]) and b"upgrade" in elements(read.get(b"connection", b""))


def _length(minor: int, read: dict[bytes, bytes]) -> int:
    """The length of the body (RFC 9112 section 6.3)."""
    length = read.get(b"content-length")
    coding = read.get(b"transfer-encoding")
    if coding is not None:
        return _check_coding(minor, coding, has_length=length is not None)
    if length is None:
        return 0
    if not length.isdigit():
        raise _malformed("Content-Length is not a number")
    if len(length) > _MAX_DIGITS and len(length.lstrip(b"0")) > _MAX_DIGITS:
        raise _malformed("Content-Length is larger than any body")
    return int(length)


def _check_coding(minor: int, value: bytes, *, has_length: bool) -> int:
    if not minor:
        raise _malformed("HTTP/1.0 has no Transfer-Encoding")
    if has_length:
        raise _malformed("Transfer-Encoding and Content-Length exclude each other")
    codings = elements(value)
    if not codings or codings[-1] != b"chunked":
        raise _malformed("the last transfer coding must be chunked, without parameters")
    if b"chunked" in codings[:-1]:
        raise _malformed("the transfer coding chunked is applied twice")
    if len(codings) > 1:
        raise NotImplementedRequest("the only transfer coding that this server takes is chunked")
    return CHUNKED


def _unusual_target(method: bytes, target: bytes, fields: Fields) -> bytes:
    """A target that does not begin with a slash, as one that does, or "*" (RFC 9112 section 3.2). Host becomes the target's authority."""
    if method == b"CONNECT":
        _check_authority(target, "the target of CONNECT")
        raise NotImplementedRequest("this server is no proxy: it opens no tunnels")
    if target == b"*" and method == b"OPTIONS":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise _malformed("the target is not a path that begins with a slash")
    scheme, authority, rest = found.groups()
    if scheme.lower() not in {b"http", b"https"}:
        raise _malformed("the target has a scheme that is not http or https")
    _check_authority(authority, "the authority of the target")
    fields[:] = [(b"host", authority), *(field for field in fields if field[0] != b"host")]
    if not rest and method == b"OPTIONS":
        return b"*"
    return rest if rest[:1] == b"/" else b"/" + rest


def _check_authority(authority: bytes, what: str) -> None:
    if not _is_authority(authority):
        raise _malformed(f"{what} is not a host name or an address, with or without a port")


@lru_cache(maxsize=256)
def _is_authority(authority: bytes) -> bool:
    """A host with an optional port. No user, and no empty host: RFC 9110 sections 4.2.1 and 4.2.4."""
    found = _AUTHORITY.fullmatch(authority) if len(authority) <= _MAX_AUTHORITY_BYTES else None
    if found is None:
        return False
    address, port = found.groups()
    return (address is None or _is_ipv6(address)) and (not port or int(port) <= _MAX_PORT)


def _is_ipv6(address: bytes) -> bool:
    try:
        IPv6Address(address.decode())
    except AddressValueError:
        return False
    return True


def elements(value: bytes) -> list[bytes]:
    """The elements of a list, in lower case; empty ones are ignored (RFC 9110 section 5.6.1.2)."""
    return [element for part in value.lower().split(b",") if (element := part.strip(b" \t"))]


def _repeated(name: bytes, before: bytes, value: bytes) -> bytes:
    """The value of a field that stands on several lines."""
    if name in {b"host", b"content-length"}:
        raise _malformed(f"the {name.decode().title()} field is repeated")
    return before + b", " + value


def _bad_line(name: bytes, colon: bytes, *, is_first: bool) -> str:
    if name[:1] in {b" ", b"\t"}:
        return "there is whitespace before the first field" if is_first else "a field is folded over several lines"
    if not colon:
        return "a field has no colon"
    if not name:
        return "a field has no name"
    return "there is whitespace before a colon" if name[-1:] in {b" ", b"\t"} else "a field name is not a token"


def _control_character(raw: bytes) -> str:
    stripped = raw.replace(b"\r\n", b"")
    if b"\n" in stripped or b"\r" in stripped:
        return "a line does not end with CR LF"
    return "there is a control character in the request line or a field"


def _malformed(reason: str) -> MalformedRequest:
    return MalformedRequest(f"not a valid HTTP/1.1 request: {reason}")
