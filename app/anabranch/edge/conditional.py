"""Answers a client that has the response already with 304: the last thing that is decided of a response, before its body is compressed.

**Source:** RFC 9110 sections 8.8.3.2 (weak comparison), 13.1.2 (`If-None-Match`), 13.2.1 (conditions count only for what would be a success) and 15.4.5 (304).
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.edge.respond import Response
from anabranch.engine.request import ClientRequest

Finish = Callable[[Response, ClientRequest], Awaitable[Response]]
"""Makes of a response what its client gets."""

_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_ABOUT_THE_CONTENT: Final = frozenset(
    {
        b"content-type", b"content-length", b"content-encoding", b"content-language", b"content-range", b"content-digest", b"repr-digest", b"last-modified",
        b"accept-ranges",
    }
)  # fmt: skip
"""What a 304 does not repeat: the client has it with the content."""


class Conditional:
    """Finishes the responses of one endpoint. `compress`: None: bodies are sent as they are."""

    __slots__ = ("_compress",)

    def __init__(self, compress: Finish | None = None) -> None:
        self._compress = compress

    async def finish(self, response: Response, request: ClientRequest) -> Response:
        known = request.headers.get(b"if-none-match")
        if known is None or response.status != 200 or not is_known(known, response):
            return response if self._compress is None else await self._compress(response, request)
        # Without its body, as for HEAD: the tag must be that of the coding which this client would get.
        head = Response(response.status, response.headers, b"")
        return _not_modified(head if self._compress is None else await self._compress(head, request))


def is_known(known: bytes, response: Response) -> bool:
    """Whether the client has this representation. `known`: If-None-Match, its lines joined."""
    tag = next((value for name, value in response.headers if name == b"etag"), None)
    if tag is None:
        return False
    return known.strip() == b"*" or tag.removeprefix(b"W/") in _TAG.findall(known)


def _not_modified(response: Response) -> Response:
    return Response(304, [pair for pair in response.headers if pair[0] not in _ABOUT_THE_CONTENT], b"")
