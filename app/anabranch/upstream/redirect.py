"""Follows redirects of GET and HEAD on the same origin. Built only for upstreams that ask for it.

A redirect to another origin is never followed, since it would carry our credentials there: the 3xx answer is returned as it came.

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
    """A `seam.Transport` around another one. `limit`: redirects followed in one exchange; the answer after the last one stands."""

    def __init__(self, inner: Transport, *, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    @property
    def inner(self) -> Transport:
        """What the exchanges go through."""
        return self._inner

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """See `seam.Transport`. All exchanges share the one deadline."""
        answer = await self._inner.exchange(request, address, deadline)
        if request.method not in _METHODS:
            return answer
        for _ in range(self._limit):
            if answer.status not in _STATUSES:
                break
            target = _same_origin(address, request.target, answer.header(b"location"))
            if target is None:
                break
            # A location is a whole path, so the base path is not put before it again.
            address = msgspec.structs.replace(address, base_path="")
            request = msgspec.structs.replace(request, target=target)
            answer = await self._inner.exchange(request, address, deadline)
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


def _same_origin(address: Address, target: str, location: bytes | None) -> str | None:
    """The target that `location` means, or None when it leads elsewhere or is no clean URL."""
    if not location or any(not 0x21 <= byte <= 0x7E for byte in location):
        return None
    try:
        parts = urlsplit(urljoin(f"{address.origin}{address.base_path}{target}", location.decode("ascii")))
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    is_same = (parts.scheme, (parts.hostname or "").lower(), port) == (address.scheme, address.host.lower(), address.port)
    if not is_same or parts.username is not None or parts.password is not None:
        return None
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
