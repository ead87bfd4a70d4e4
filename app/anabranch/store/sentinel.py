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
    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._context = context
        # In the order in which they are asked. One that did not answer goes to the end, so that each is asked in the end, however short the time is.
        self._places = list(settings.places)

    async def locate(self) -> Place:
        """Where the primary is. Raises Lost when no sentinel says."""
        reason = ""
        for _ in self._settings.places:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await self._ask(self._places[0])
            except TimeoutError:
                reason = "no sentinel answers"
            except Lost as error:
                reason = f"no sentinel tells where the primary is; the last one says: {error.reason}"
            self._places.append(self._places.pop(0))
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
        try:
            host, port = found
            return Place(host.decode(), int(port))
        except (AttributeError, TypeError, ValueError):
            raise Lost("it is no sentinel") from None


async def check_primary(link: Link) -> None:
    """Raise Lost if the server is not a primary: a sentinel may not have noticed a failover yet."""
    role = accepted(await link.send("ROLE"))
    if not isinstance(role, list) or role[:1] != [b"master"]:
        raise Lost("it is a replica")
