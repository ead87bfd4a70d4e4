"""One server for all keys: at a fixed address, or wherever sentinels say that the primary is."""

import ssl
from typing import Any, Self

from anabranch.store.link import Argument, Link, Refused
from anabranch.store.sentinel import Sentinels, check_primary
from anabranch.store.server import Check, Server
from anabranch.store.settings import Place, RedisSettings


class Single:
    """See `Cluster`, whose interface it has."""

    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None, check: Check) -> None:
        self._place = settings.places[0]
        self._sentinels = None if settings.sentinel is None else Sentinels(settings, context)

        async def check_all(link: Link) -> None:
            if self._sentinels is not None:
                await check_primary(link)
            await check(link)

        self._server = Server(settings, context, locate=self.locate, check=check_all)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__()

    @property
    def trouble(self) -> str | None:
        return self._server.trouble

    async def tried(self) -> None:
        await self._server.tried()

    async def locate(self) -> Place:
        return self._place if self._sentinels is None else await self._sentinels.locate()

    def link(self, key: bytes) -> Link | None:
        return self._server.link()

    def fail(self, key: bytes, reason: str) -> None:
        self._server.fail(reason)

    async def redirected(self, refused: Refused, command: tuple[Argument, ...]) -> Any:
        return refused
