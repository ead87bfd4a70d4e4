"""Follows redirects of GET and HEAD on the same origin. Built only for upstreams that set `follow_redirects`.

A redirect to another origin is never followed, since that would send our credentials there: the 3xx response is returned unchanged.

**Source:** RFC 9110 section 15.4.
"""

from typing import Final
from urllib.parse import urljoin, urlsplit

import msgspec

from anabranch.core.exchange import DEFAULT_PORTS, Address, Answer, Request
from anabranch.upstream.seam import Transport

_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_METHODS: Final = frozenset({"GET", "HEAD"})


class Redirecting:
    """A `seam.Transport` around another one. `limit`: maximum number of redirects in one exchange; then the next 3xx is returned."""

    def __init__(self, inner: Transport, *, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    @property
    def inner(self) -> Transport:
        """The wrapped transport."""
        return self._inner

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """See `seam.Transport`. All exchanges share one deadline."""
        answer = await self._inner.exchange(request, address, deadline)
        if request.method not in _METHODS:
            return answer
        for _ in range(self._limit):
            if answer.status not in _STATUSES:
                break
            target = _same_origin(address, request.target, answer.header(b"location"))
            if target is None:
                break
            # A location is a full path, so the base path must not be prepended again.
            address = msgspec.structs.replace(address, base_path="")
            request = msgspec.structs.replace(request, target=target)
            answer = await self._inner.exchange(request, address, deadline)
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


def _same_origin(address: Address, target: str, location: bytes | None) -> str | None:
    """The target of `location`; None if it has another origin or is not a valid URL."""
    if not location or any(not 0x21 <= byte <= 0x7E for byte in location):
        return None
    try:
        parts = urlsplit(urljoin(f"{address.origin}{address.base_path}{target}", location.decode("ascii")))
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = (parts.hostname or "").removesuffix(".")
    is_same = (parts.scheme, host, port) == (address.scheme, address.host, address.port)
    if not is_same or parts.username is not None or parts.password is not None:
        return None
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
