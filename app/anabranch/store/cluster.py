"""The nodes of a cluster: which of them has a key, and what happens when a key has moved.

**Source:** Redis cluster specification, "Hash tags", "Redirection and resharding", "Clients first connection and handling of redirections".
"""

import asyncio
import ssl
from binascii import crc_hqx
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from anabranch.core.tasks import cancel_and_wait
from anabranch.store.link import Argument, Link, Lost, Refused, dial
from anabranch.store.server import OPEN_TIMEOUT_S, Check, Server, accepted, log_in
from anabranch.store.settings import Place, RedisSettings
from anabranch.store.trouble import Trouble

SLOTS: Final = 16384
_REFRESH_S: Final = 30.0
# While a node is away, another one may take its place.
_REFRESH_IN_TROUBLE_S: Final = 0.5
_PAUSE_S: Final = 0.1


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC16 of its hash tag (the text in its first braces, unless that is empty), else of the whole key."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Cluster:
    """An async context manager: keeps connections to each primary. It learns them from any node: now and then, when a key has moved, and while a node is away."""

    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None, check: Check) -> None:
        self._settings = settings
        self._context = context
        self._check = check
        self._servers: dict[Place, Server] = {}
        self._owners: list[Server | None] = [None] * SLOTS
        self._trouble = Trouble("the shared store")
        self._is_stale = asyncio.Event()
        self._is_tried = asyncio.Event()
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="store cluster")
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as exits:
            try:
                if self._task is not None:
                    await cancel_and_wait([self._task])
            finally:
                for server in self._servers.values():
                    exits.push_async_exit(server)
                self._servers.clear()
                self._owners = [None] * SLOTS

    @property
    def trouble(self) -> str | None:
        """What is wrong with some node; None when all is well."""
        return next((server.trouble for server in self._servers.values() if server.trouble is not None), self._trouble.reason)

    async def tried(self) -> None:
        """Wait until the first attempt to connect to each primary has ended."""
        await self._is_tried.wait()
        for server in tuple(self._servers.values()):
            await server.tried()

    async def locate(self) -> Place:
        """Some node, another one each time: all of them pass on messages."""
        places = [*self._servers, *self._settings.places]
        self._next += 1
        return places[self._next % len(places)]

    def link(self, key: bytes) -> Link | None:
        """A connection to the server that has `key`; None while it is away."""
        owner = self._owners[slot_of(key)]
        return None if owner is None else owner.link()

    def fail(self, key: bytes, reason: str) -> None:
        """Treat the server that has `key` as away."""
        self._is_stale.set()
        owner = self._owners[slot_of(key)]
        if owner is not None:
            owner.fail(reason)

    async def redirected(self, refused: Refused, command: tuple[Argument, ...]) -> Any:
        """The reply of the node to which an error reply points; `refused` itself when it points to none. Raises Lost."""
        if refused.code not in ("MOVED", "ASK"):
            return refused
        if refused.code == "MOVED":
            self._is_stale.set()
        host, _, port = str(refused).rpartition(" ")[2].rpartition(":")
        server = self._servers.get(Place(host, int(port))) if port.isdecimal() else None
        link = None if server is None else server.link()
        if link is None:
            raise Lost("a key has moved to another node")
        if refused.code == "ASK":
            link.send("ASKING")
        return await link.send(*command)

    async def _follow(self) -> None:
        while True:
            self._is_stale.clear()
            await self._learn()
            self._is_tried.set()
            await asyncio.sleep(_PAUSE_S)
            try:
                async with asyncio.timeout(_REFRESH_S if self.trouble is None else _REFRESH_IN_TROUBLE_S):
                    await self._is_stale.wait()
            except TimeoutError:
                pass

    async def _learn(self) -> None:
        reason = ""
        for place in [*self._servers, *self._settings.places]:
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    ranges = await self._ask(place)
            except TimeoutError:
                reason = "no node of the cluster answers"
            except Lost as error:
                reason = f"no node tells the nodes of the cluster; the last one says: {error.reason}"
            else:
                await self._adopt(ranges)
                if sum(end - start + 1 for start, end, _ in ranges) == SLOTS:
                    self._trouble.end()
                else:
                    self._trouble.begin("its cluster has slots without a node")
                return
        self._trouble.begin(reason)

    async def _ask(self, place: Place) -> list[tuple[int, int, Place]]:
        """The ranges of slots, with the primary of each, as a node knows them."""
        link = await dial(place, self._context, self._settings.server_name, lambda: Link(OPEN_TIMEOUT_S, lambda *_: None))
        try:
            await log_in(link, self._settings.login)
            ranges = await link.send("CLUSTER", "SLOTS")
            if isinstance(ranges, Refused) and "cluster support disabled" in str(ranges):
                raise Lost("it is not a node of a cluster")
            accepted(ranges)
        finally:
            link.close()
        try:
            # A node that does not know its own address leaves it out.
            return [(int(start), int(end), Place((node[0] or b"").decode() or place.host, int(node[1]))) for start, end, node, *_ in ranges]
        except (AttributeError, IndexError, TypeError, ValueError):
            raise Lost("it does not tell the nodes of its cluster") from None

    async def _adopt(self, ranges: list[tuple[int, int, Place]]) -> None:
        owners: list[Server | None] = [None] * SLOTS
        for start, end, place in ranges:
            server = self._servers.get(place)
            if server is None:
                server = self._servers[place] = self._new_server(place)
                await server.__aenter__()
            owners[start : end + 1] = [server] * (end + 1 - start)
        self._owners = owners
        for place in set(self._servers) - {place for _, _, place in ranges}:
            await self._servers.pop(place).__aexit__()

    def _new_server(self, place: Place) -> Server:
        async def locate() -> Place:
            return place

        return Server(self._settings, self._context, locate=locate, check=self._check, name="a node of the shared store")
