"""Receives messages on a connection of its own, which is opened again whenever it ends."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import random
from typing import Any, Final, Self

from anabranch.core.tasks import cancel_and_wait
from anabranch.store.link import Link, ListeningLink, Lost, Refused, dial
from anabranch.store.server import OPEN_TIMEOUT_S, Locate, accepted, log_in
from anabranch.store.settings import RedisSettings

logger = logging.getLogger("anabranch.store")

_FIRST_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0
# The silence of a frozen server, or of a network that swallows packets, is noticed by commands without replies.
_PING_EVERY_S: Final = 1.0


class _Subscriber:
    """`has_gap`: it may have missed messages, and has not been told yet; that it is not subscribed yet counts."""

    __slots__ = ("has_gap", "on_gap", "on_message")

    def __init__(self, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        self.on_message: Final = on_message
        self.on_gap: Final = on_gap
        self.has_gap = True


class Listener:
    """An async context manager. `locate`: see `Server`."""

    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None, locate: Locate) -> None:
        self._settings = settings
        self._context = context
        self._locate = locate
        self._subscribers: dict[bytes, list[_Subscriber]] = {}
        self._link: Link | None = None
        self._is_told = False
        self._has_ended = asyncio.Event()
        self._is_tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._listen(), name="store messages")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await cancel_and_wait([self._task])

    def restart(self) -> None:
        """Connect anew: the primary may be elsewhere."""
        self._has_ended.set()

    async def tried(self) -> None:
        """Wait until the first attempt to connect has ended."""
        await self._is_tried.wait()

    @asynccontextmanager
    async def subscribe(self, channel: bytes, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> AsyncIterator[None]:
        """See `Store.subscribe`. Subscribed when it is entered, unless the store is away."""
        subscriber = _Subscriber(on_message, on_gap)
        others = self._subscribers.setdefault(channel, [])
        others.append(subscriber)
        try:
            if self._link is not None:
                subscriber.has_gap = not await self._is_subscribed(self._link.send("SUBSCRIBE", channel))
            yield
        finally:
            others.remove(subscriber)
            if not others:
                del self._subscribers[channel]
                if self._link is not None:
                    self._link.send("UNSUBSCRIBE", channel)

    async def _listen(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            link = None
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    link = await self._open()
                self._is_tried.set()
                backoff_s = _FIRST_BACKOFF_S
                await self._watch(link)
            except (TimeoutError, Lost):
                self._is_tried.set()
            finally:
                self._link = None
                if link is not None:
                    link.close()
                for subscribers in self._subscribers.values():
                    for subscriber in subscribers:
                        subscriber.has_gap = True
            await asyncio.sleep(backoff_s * (0.5 + random() / 2))  # noqa: S311 - no secret
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    async def _open(self) -> Link:
        """A connection with all subscriptions. Raises Lost."""
        place = await self._locate()
        self._has_ended.clear()
        link = await dial(
            place,
            self._context,
            self._settings.server_name,
            lambda: ListeningLink(OPEN_TIMEOUT_S, lambda *_: self._has_ended.set(), self._receive),
        )
        try:
            await log_in(link, self._settings.login)
            self._link = link
            for channel, sent in [(channel, link.send("SUBSCRIBE", channel)) for channel in self._subscribers]:
                if await self._is_subscribed(sent):
                    self._tell_of_gap(channel)
        except BaseException:
            self._link = None
            link.close()
            raise
        if not link.is_open:
            raise Lost("the connection was lost")
        return link

    async def _is_subscribed(self, sent: "asyncio.Future[Any]") -> bool:
        """Whether a SUBSCRIBE was accepted. One that an ACL forbids does not end the connection."""
        try:
            reply = await sent
        except Lost:
            return False
        if isinstance(reply, Refused):
            if not self._is_told:
                self._is_told = True
                logger.warning("the shared store refuses the operation subscribe: %s", reply.code)
            return False
        return True

    def _tell_of_gap(self, channel: bytes) -> None:
        for subscriber in self._subscribers.get(channel, ()):
            if subscriber.has_gap:
                subscriber.has_gap = False
                subscriber.on_gap()

    async def _watch(self, link: Link) -> None:
        """Return when the connection has ended. Raises Lost."""
        while True:
            try:
                async with asyncio.timeout(_PING_EVERY_S):
                    await self._has_ended.wait()
            except TimeoutError:
                accepted(await link.send("PING"))
            else:
                return

    def _receive(self, channel: bytes, message: bytes) -> None:
        for subscriber in tuple(self._subscribers.get(channel, ())):
            subscriber.on_message(message)
