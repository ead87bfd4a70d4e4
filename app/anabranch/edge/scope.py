"""Reads an ASGI scope: header fields by name, and the path as the client encoded it."""

from typing import Final

from starlette.types import Scope

_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})


def join_headers(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The client's header fields by name. Repeated fields are joined by a comma, cookies by a semicolon (RFC 9110 section 5.3, RFC 9113 8.2.3).

    Fields named in Connection are dropped: they are for one connection only (RFC 9110 section 7.6.1).
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
            headers.pop(named.strip(), None)
    return headers


def raw_path(scope: Scope) -> bytes:
    """The path as the client encoded it, below the application's root path. If the server keeps no raw path, `%2F` is decoded already."""
    path: bytes | None = scope.get("raw_path")
    if path is None:
        path = str(scope["path"]).encode().replace(b"%", b"%25")
    root: str = scope.get("root_path", "")
    return path.removeprefix(root.encode()) if root else path
