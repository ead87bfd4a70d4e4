"""Finds the primary by asking sentinels.

**Source:** Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".
"""

import asyncio
import ssl
from typing import Final

from anabranch.store.link import Link, Lost, dial
from anabranch.store.server import accepted, log_in
from anabranch.store.settings import Place, RedisSettings

_TIMEOUT_S: Final = 0.3


class Sentinels:
    """`places`: in the order in which they are asked: the last one that answered comes first."""

    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None) -> None:
        self.places = list(settings.places)
        self._settings = settings
        self._context = context

    async def locate(self) -> Place:
        """Where the primary is. Raises Lost when no sentinel says."""
        reason = ""
        for place in tuple(self.places):
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    found = await self._ask(place)
            except TimeoutError:
                reason = "no sentinel answers"
            except Lost as error:
                reason = f"no sentinel tells where the primary is; the last one says: {error.reason}"
            else:
                self.places.remove(place)
                self.places.insert(0, place)
                return found
        raise Lost(reason)

    async def _ask(self, place: Place) -> Place:
        settings = self._settings
        link = await dial(place, self._context, settings.server_name, lambda: Link(_TIMEOUT_S, lambda *_: None))
        try:
            await log_in(link, settings.sentinel_login)
            found = accepted(await link.send("SENTINEL", "GET-MASTER-ADDR-BY-NAME", settings.sentinel or ""))
        finally:
            link.close()
        if found is None:
            raise Lost("there is no primary of this name")
        host, port = found
        return Place(host.decode(), int(port))


async def check_primary(link: Link) -> None:
    """Raise Lost if the server is not a primary: a sentinel may not have noticed a failover yet."""
    role = accepted(await link.send("ROLE"))
    if role[0] != b"master":
        raise Lost("it is a replica")
