"""Follows redirects of GET and HEAD on the same origin. Built only for upstreams that set `follow_redirects`.

A redirect to another origin is never followed, since that would send our credentials there: the 3xx response is returned unchanged.

**Source:** RFC 9110 section 15.4.
"""

from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from anabranch.core.exchange import DEFAULT_PORTS, REDIRECTS, Address, Answer, Request, StreamRule
from anabranch.upstream.seam import StreamTransport, Transport
from anabranch.upstream.stream import AnswerStream

_METHODS: Final = frozenset({"GET", "HEAD"})
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))


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
        for _ in range(self._limit):
            further = _further(request, address, answer)
            if further is None:
                break
            request, address = further
            answer = await self._inner.exchange(request, address, deadline)
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


class RedirectingStreams(Redirecting):
    """The same as a `seam.StreamTransport`."""

    def __init__(self, inner: StreamTransport, *, limit: int) -> None:
        super().__init__(inner, limit=limit)
        self._streaming = inner

    async def stream(self, request: Request, address: Address, deadline: float, rule: StreamRule) -> AnswerStream:
        """See `seam.StreamTransport`. Closes the body of a redirect unread."""
        answer = await self._streaming.stream(request, address, deadline, rule)
        for _ in range(self._limit):
            further = _further(request, address, answer)
            if further is None:
                break
            await answer.aclose()
            request, address = further
            answer = await self._streaming.stream(request, address, deadline, rule)
        return answer


def _further(request: Request, address: Address, answer: Answer | AnswerStream) -> tuple[Request, Address] | None:
    """The request that `answer` redirects to, and its address; None if the redirect is not to be followed or there is none."""
    if answer.status not in REDIRECTS or request.method not in _METHODS:
        return None
    target = _same_origin(address, request.target, answer.header(b"location"))
    if target is None:
        return None
    # A location is a full path, so the base path must not be prepended again.
    return msgspec.structs.replace(request, target=target), msgspec.structs.replace(address, base_path="")


def _same_origin(address: Address, target: str, location: bytes | None) -> str | None:
    """The target of `location`; None if it has another origin or is not a valid URL.

    Spaces and bytes beyond ASCII are percent-encoded, as browsers, curl and Go do.
    """
    location = b"" if location is None else location.strip(b" \t")
    if not location or any(byte < 0x20 or byte == 0x7F for byte in location):
        return None
    try:
        parts = urlsplit(urljoin(f"{address.origin}{address.base_path}{target}", quote(location, safe=_PRINTABLE)))
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = (parts.hostname or "").removesuffix(".")
    is_same = (parts.scheme, host, port) == (address.scheme, address.host, address.port)
    if not is_same or parts.username is not None or parts.password is not None:
        return None
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
