"""Asks an authority over HTTP: for its keys, or for what it knows of a token."""

import asyncio
from collections.abc import Callable
from typing import Final

from anabranch.config.auth.bearer import Bearer
from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.errors import ConnectionLost, StepError
from anabranch.plan.upstream import UpstreamPlan, authority_at
from anabranch.upstream.seam import Transport

MOST_BYTES: Final = 1024 * 1024
"""Of an answer."""
_HEADERS: Final = [(b"accept", b"application/json"), (b"accept-encoding", b"gzip")]


class NoAnswer(Exception):
    """The authority gave no answer that can be used. Its text says why, and quotes nothing of the answer."""


class Authority:
    """The authority of an authentication, and others with the same scheme. Redirects are not followed: they would lead to keys that the operator has not named.

    `name`, `source`: of the authentication. `opener`: opens the transport.
    """

    def __init__(self, name: str, source: Bearer, opener: Callable[[UpstreamPlan], Transport]) -> None:
        assert source.authority is not None
        self._transport = opener(authority_at(source.authority, name=name, max_response_bytes=MOST_BYTES, tls=source.tls))
        self._timeout_s = source.timeout_s

    async def get(self, url: str) -> Answer:
        """An answer with status 200. Raises NoAnswer."""
        return await self._ask("GET", url, [], None)

    async def post(self, url: str, headers: list[tuple[bytes, bytes]], form: bytes) -> Answer:
        """The same, to a form."""
        return await self._ask("POST", url, [*headers, (b"content-type", b"application/x-www-form-urlencoded")], form)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _ask(self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes | None) -> Answer:
        address, target = Address.parse_target(url)
        request = Request(method=method, target=target, headers=HeaderBlock.of([*_HEADERS, *headers]), body=body)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            answer = await self._exchange(request, address, deadline)
        except StepError as error:
            raise NoAnswer(error.detail) from error
        if answer.status != 200:
            raise NoAnswer(f"the authority answered {answer.status}")
        return answer

    async def _exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        try:
            return await self._transport.exchange(request, address, deadline)
        except ConnectionLost:
            # An idle connection may be closed at the moment it is used. Asking changes nothing at the authority.
            return await self._transport.exchange(request, address, deadline)
