"""Keeps connections to one server, so that no request ever opens one: commands are sent on what is open, or fail at once."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from random import random
from time import monotonic
from typing import Any, Final, Self

from anabranch.core.tasks import cancel_and_wait
from anabranch.store.link import TOO_MANY_CLIENTS, Link, Lost, Refused, dial
from anabranch.store.settings import Login, Place, RedisSettings
from anabranch.store.trouble import Trouble

Locate = Callable[[], Awaitable[Place]]
"""Finds the address before each connection. Raises Lost."""
Check = Callable[[Link], Awaitable[None]]
"""Proves that a new connection is good for everything that the gateway does. Raises Lost."""

OPEN_TIMEOUT_S: Final = 1.0
"""Of a new connection, with TLS and its login. No request waits for it."""
# Keeps idle connections open, and notices those that a firewall has forgotten before a request does.
_PING_EVERY_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.05
_MAX_BACKOFF_S: Final = 1.0
# A connection that ends earlier does not prove that the server is well: it may answer the check and be too slow for everything else.
_SETTLED_S: Final = 10.0

UNUSABLE: Final = {
    "LOADING": "it is loading its data",
    "BUSY": "it is busy with a script",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "READONLY": "it is a replica",
    "CLUSTERDOWN": "its cluster is down",
    "MISCONF": "it refuses to write because it cannot save its data",
    "NOREPLICAS": "it refuses to write because it has too few replicas",
    "OOM": "its memory is full, and its maxmemory-policy evicts nothing",
    "NOAUTH": "it requires a password",
    "WRONGPASS": "it does not accept the username and password",
}
"""Codes of error replies from a server that serves nobody at the moment, and what is wrong with it."""
_OF_A_NEW_CONNECTION: Final = {
    **UNUSABLE,
    "NOPERM": "its user may not do what the gateway needs",
    "MOVED": "it is a node of a cluster, which needs `cluster: true`",
    "DENIED": "it is in protected mode: it needs a password",
    TOO_MANY_CLIENTS: "it has too many clients",
}
# Why CLIENT SETNAME may fail: an ACL, or a proxy that does not know it. Only people read the name.
_NEEDLESS: Final = frozenset({"NOPERM", "ERR"})


class Server:
    """An async context manager: keeps `settings.connections` connections open. Leaving it closes them.

    `name`: in the log.
    """

    def __init__(
        self, settings: RedisSettings, context: ssl.SSLContext | None, *, locate: Locate, check: Check, name: str = "the shared store"
    ) -> None:
        self._trouble = Trouble(name)
        self._settings = settings
        self._context = context
        self._locate = locate
        self._check = check
        self._links: list[Link] = []
        self._is_missing = asyncio.Event()
        self._is_tried = asyncio.Event()
        self._backoff_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._is_missing.set()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="store connections")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait([self._task])
        finally:
            links, self._links = self._links, []
            for link in links:
                link.close()

    @property
    def trouble(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return self._trouble.reason

    async def tried(self) -> None:
        """Wait until the first attempt to connect has ended: about a second at most."""
        await self._is_tried.wait()

    def link(self) -> Link | None:
        """The open connection with the fewest commands in flight; None while the server is away. O(connections)."""
        links = self._links
        if not links:
            return None
        best = links[0]
        if best.pending:
            for link in links:
                if len(link.pending) < len(best.pending):
                    best = link
        return best

    def fail(self, reason: str) -> None:
        """Close all connections, because the server has replied that it serves nobody."""
        for link in tuple(self._links):
            link.fail(reason)

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PING_EVERY_S):
                    await self._is_missing.wait()
            except TimeoutError:
                for link in self._links:
                    link.send("PING")
                continue
            if self._backoff_s:
                await asyncio.sleep(self._backoff_s * (0.5 + random() / 2))  # noqa: S311 - no secret
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    link = await self._open()
            except TimeoutError:
                self._failed("it does not answer")
            except Lost as error:
                self._failed(error.reason)
            else:
                self._opened(link)
            self._is_tried.set()

    async def _open(self) -> Link:
        place = await self._locate()
        settings = self._settings
        link = await dial(place, self._context, settings.server_name, lambda: Link(OPEN_TIMEOUT_S, self._ended))
        try:
            await log_in(link, settings.login, settings.database)
            link.allow(settings.timeout_s)
            await self._check(link)
        except BaseException:
            link.close()
            raise
        if not link.is_open:
            raise Lost("it closed the connection")
        return link

    def _opened(self, link: Link) -> None:
        self._links.append(link)
        if len(self._links) >= self._settings.connections:
            self._is_missing.clear()
        self._trouble.end()

    def _failed(self, reason: str) -> None:
        self._back_off()
        if not self._links:
            self._trouble.begin(reason)

    def _ended(self, link: Link, reason: str) -> None:
        if link not in self._links:
            return
        self._links.remove(link)
        self._is_missing.set()
        if monotonic() - link.opened_at >= _SETTLED_S:
            self._backoff_s = 0.0
        elif not self._links:
            self._back_off()
        if not self._links:
            self._trouble.begin(reason)

    def _back_off(self) -> None:
        self._backoff_s = min(max(self._backoff_s * 2, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)


async def log_in(link: Link, login: Login, database: int = 0) -> None:
    """Authenticate a new connection and select its database, in one round trip. Raises Lost."""
    sent = []
    if login.password is not None:
        sent.append(link.send("AUTH", *(() if login.username is None else (login.username,)), login.password))
    if database:
        sent.append(link.send("SELECT", database))
    named = link.send("CLIENT", "SETNAME", "anabranch")
    for future in sent:
        accepted(await future)
    reply = await named
    if not isinstance(reply, Refused) or reply.code not in _NEEDLESS:
        accepted(reply)


def accepted(reply: Any) -> Any:
    """The reply. Raises Lost if it is an error, with what it says of the server."""
    if isinstance(reply, Refused):
        raise Lost(_OF_A_NEW_CONNECTION.get(reply.code, "it refuses what the gateway needs"))
    return reply
