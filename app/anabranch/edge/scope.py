"""Reads an ASGI scope: header fields by name, and the path as the client encoded it, or as it is read."""

from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from anabranch.core.forwarding import FORWARDING

_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_END_TO_END: Final = frozenset((b"host", *FORWARDING))
"""Fields that guards decide by. A proxy that passes the client's Connection on must not thereby take back what it says of the client."""


def join_headers(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The client's header fields by name. Repeated fields are joined by a comma, cookies by a semicolon (RFC 9110 section 5.3, RFC 9113 8.2.3).

    Fields named in Connection are dropped: they are for one connection only (RFC 9110 section 7.6.1). Not so the host, and what proxies say of the client.
    """
    headers = dict(lines)
    if len(headers) != len(lines):
        headers.clear()
        for name, value in lines:
            before = headers.get(name)
            headers[name] = value if before is None else before + (b"; " if name == b"cookie" else b", ") + value
    connection = headers.get(b"connection")
    if connection is not None and connection not in _PLAIN_CONNECTION:
        for named in connection.lower().split(b","):
            if (name := named.strip()) not in _END_TO_END:
                headers.pop(name, None)
    return headers


def raw_path(scope: Scope) -> bytes:
    """The path as the client encoded it, below the application's root path. If the server keeps no raw path, `%2F` is decoded already."""
    path: bytes | None = scope.get("raw_path")
    if path is None:
        path = str(scope["path"]).encode().replace(b"%", b"%25")
    root: str = scope.get("root_path", "")
    return path.removeprefix(root.encode()) if root else path


def readings(scope: Scope) -> tuple[str, ...]:
    """The path below the application's root path, as those read it who may serve it. Endpoints decode each segment, so `%2F` separates none and stays; routers in Python
    decode the whole path first. What is not UTF-8 is replaced."""
    sent = raw_path(scope)
    segments = [unquote_to_bytes(segment).decode("utf-8", "replace") for segment in sent.split(b"/")]
    by_segment = "/".join(segment.replace("/", "%2F") for segment in segments)
    whole = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return (by_segment,) if whole == by_segment else (by_segment, whole)
