"""Refuses what a web page can make a browser send to the admin server, where no token tells the operator from such a page.

Any page may send requests to a port of the browser's own machine or network. It cannot read the responses, unless its own name leads to that port
(DNS rebinding); then `Host` has that name. A request that changes or runs something does its work even if nobody reads the response; browsers say in
`Sec-Fetch-Site` or `Origin` where it comes from, and other clients send neither.

**Source:** RFC 9110 sections 7.2, 9.2.1 and 15.5.20 (421); RFC 6454 section 7; W3C Fetch Metadata Request Headers section 2.1; the rules of
`CrossOriginProtection` in Go's net/http; RFC 6761 section 6.3 (localhost).
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.edge import problems
from anabranch.edge.faults import respond
from anabranch.edge.python import request_of

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
"""`none`: the user typed the address, or followed a bookmark."""


class BrowserGuard:
    """ASGI middleware: 421 for an unknown `Host`, 403 for a request of another origin that changes or runs something.

    Known are loopback names and addresses, the address that the connection came to, and `names` (lower case, without port). `runs`: prefix of
    paths that run something even by GET.
    """

    def __init__(self, app: ASGIApp, *, names: Sequence[str], runs: str) -> None:
        self._app = app
        self._names = frozenset(names)
        self._runs = runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host")
        is_acting = scope["method"] not in _SAFE_METHODS or scope["path"].startswith(self._runs)
        if host is not None and not self._is_known(host.decode("latin-1"), scope):
            detail = "the admin server does not know the name in Host; add it to ANABRANCH_ADMIN_NAMES, or set a token"
            await _refuse(scope, 421, "Misdirected Request", detail)(scope, receive, send)
        elif is_acting and not _is_same_origin(headers, host):
            detail = "a page of another origin must not do this; call it without Origin and Sec-Fetch-Site, or set a token and send it"
            await _refuse(scope, 403, "Forbidden", detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_known(self, host: str, scope: Scope) -> bool:
        name = _without_port(host).lower().removesuffix(".")
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        address = _address(name)
        if address is None:
            return False
        server = scope.get("server")
        return address.is_loopback or (server is not None and address == _address(server[0]))


def _is_same_origin(headers: dict[bytes, bytes], host: bytes | None) -> bool:
    """Neither field says that the request comes from another origin."""
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    return (site is None or site in _OWN_SITES) and (
        origin is None or (host is not None and origin.lower().partition(b"://")[2] == host.lower())
    )


def _without_port(host: str) -> str:
    """The name or address in a Host field, without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _refuse(scope: Scope, status: int, title: str, detail: str) -> ASGIApp:
    return respond(problems.of_status(status, title, detail, request_of(Request(scope)).id))
