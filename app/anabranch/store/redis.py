"""The store in a Redis or Valkey: one server, one behind sentinels, or a cluster.

No request waits for a store that is away. Connections are opened in the background, and commands are sent only on what is open. A command whose reply is late
ends its connection; while a server has no connection, everything raises StoreAway at once, until a new connection has proved that it serves again.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import lru_cache
from math import ceil
from secrets import token_bytes
from time import monotonic
from typing import Any, Final, Self, TypeVar

from anabranch.core.metric import Sample
from anabranch.core.rate import Bucket, Rate, Verdict, all_allowed, look
from anabranch.store.cluster import Cluster, slot_of
from anabranch.store.link import Argument, Link, Lost, Refused
from anabranch.store.listener import Listener
from anabranch.store.metrics import STORE_AWAY, STORE_OPERATIONS, STORE_SECONDS
from anabranch.store.scripts import RELEASE, TAKE
from anabranch.store.seam import StoreAway
from anabranch.store.server import UNUSABLE, accepted
from anabranch.store.settings import RedisSettings
from anabranch.store.single import Single

logger = logging.getLogger("anabranch.store")

T = TypeVar("T")

_ODD: Final = "the shared store replied something else"
_START_S: Final = 1.5
_ENTRY: Final = b"e:"
_COUNT: Final = b"c:"
_LEASE: Final = b"l:"
_CHANNEL: Final = b"m:"
_PROBE: Final = b"p:"
_PROBE_MS: Final = 1000
_SCRIPTS: Final[dict[Argument, str]] = {script.digest: script.text for script in (TAKE, RELEASE)}


class _Count:
    """What has become of the operations of one kind."""

    __slots__ = ("away", "lost", "ok", "ok_s", "refused")

    def __init__(self) -> None:
        self.ok = self.away = self.lost = self.refused = 0
        self.ok_s = 0.0


class RedisStore:
    """See `Store`. An async context manager: entering it waits for the first attempt to connect, about a second at most, and raises nothing.

    `context`: of TLS; None: plain connections. Creating it does no I/O and needs no event loop.
    """

    def __init__(self, settings: RedisSettings, context: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._context = context
        self._prefix = settings.prefix
        self._counts = {name: _Count() for name in ("get", "put", "discard", "take", "lease", "release", "publish")}
        self._told: set[tuple[str, str]] = set()
        self._exits = AsyncExitStack()
        self._servers: Single | Cluster
        self._listener: Listener

    async def __aenter__(self) -> Self:
        settings, context = self._settings, self._context
        async with AsyncExitStack() as exits:
            self._servers = await exits.enter_async_context(
                Cluster(settings, context, self._check_node) if settings.is_cluster else Single(settings, context, self._check)
            )
            self._listener = await exits.enter_async_context(Listener(settings, context, self._servers.locate))
            try:
                async with asyncio.timeout(_START_S):
                    await self._servers.tried()
                    await self._listener.tried()
            except TimeoutError:
                pass  # several servers were tried in vain, and further ones will be
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def get(self, key: bytes) -> bytes | None:
        key = self._prefix + _ENTRY + key
        value = await self._ask("get", key, "GET", key)
        if value is None or isinstance(value, bytes):
            return value
        raise StoreAway(_ODD)

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        key = self._prefix + _ENTRY + key
        await self._ask("put", key, "SET", key, value, "PX", _milliseconds(ttl_s))

    async def discard(self, *keys: bytes) -> int:
        whole = [self._prefix + _ENTRY + key for key in keys]
        slots: dict[int, list[bytes]] = {}
        for key in whole:
            slots.setdefault(slot_of(key) if self._settings.is_cluster else 0, []).append(key)
        found = await _all([self._ask("discard", group[0], "UNLINK", *group) for group in slots.values()])
        try:
            return sum(map(int, found))
        except (TypeError, ValueError):
            raise StoreAway(_ODD) from None

    async def take(self, buckets: Sequence[Bucket], cost: float) -> list[Verdict]:
        """See `Store.take`. In a cluster the buckets may be at several servers, and no decision spans them: the units are taken at all of them in one round trip, and
        given back where another bucket did not allow it. So a limit is never exceeded, and for a moment it may refuse what was just about to be given back."""
        if not buckets:
            return []
        if not self._settings.is_cluster:
            return await self._take(buckets, cost)
        slots: dict[int, list[Bucket]] = {}
        for bucket in buckets:
            slots.setdefault(slot_of(self._prefix + _COUNT + bucket.key), []).append(bucket)
        groups = list(slots.values())
        found = await _all([self._take(group, cost) for group in groups])
        if not all(map(all_allowed, found)):
            taken = [group for group, verdicts in zip(groups, found, strict=True) if all_allowed(verdicts)]
            await _all([self._take(group, -cost) for group in taken])
        verdicts = {
            bucket.key: verdict for group, each in zip(groups, found, strict=True) for bucket, verdict in zip(group, each, strict=True)
        }
        return [verdicts[bucket.key] for bucket in buckets]

    async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
        key, token = self._prefix + _LEASE + key, token_bytes(12)
        reply = await self._ask("lease", key, "SET", key, token, "NX", "PX", _milliseconds(ttl_s))
        return None if reply is None else token

    async def release(self, key: bytes, token: bytes) -> None:
        key = self._prefix + _LEASE + key
        await self._ask("release", key, "EVALSHA", RELEASE.digest, 1, key, token)

    async def publish(self, channel: bytes, message: bytes) -> None:
        channel = self._prefix + _CHANNEL + channel
        await self._ask("publish", channel, "PUBLISH", channel, message)

    def subscribe(
        self, channel: bytes, on_message: Callable[[bytes], None], on_gap: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        return self._listener.subscribe(self._prefix + _CHANNEL + channel, on_message, on_gap)

    def notes(self) -> Iterator[str]:
        """What readiness says. It does not affect readiness: whoever uses the store has a behaviour for this."""
        if self._servers.trouble is not None:
            yield f"the shared store is away: {self._servers.trouble}"

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for operation, count in self._counts.items():
            for result in ("ok", "away", "lost", "refused"):
                yield Sample(STORE_OPERATIONS, (operation, result), getattr(count, result))
            yield Sample(STORE_SECONDS, (operation,), count.ok_s)
        yield Sample(STORE_AWAY, (), float(self._servers.trouble is not None))

    async def _take(self, buckets: Sequence[Bucket], cost: float) -> list[Verdict]:
        """Take from buckets at one server."""
        prefix = self._prefix + _COUNT
        keys = [prefix + bucket.key for bucket in buckets]
        arguments = [argument for bucket in buckets for argument in _arguments(bucket.rate)]
        reply = await self._ask("take", keys[0], "EVALSHA", TAKE.digest, len(keys), *keys, repr(cost), "", *arguments)
        try:
            now = float(reply[0])
            return [look(bucket.rate, float(state), now, cost)[0] for bucket, state in zip(buckets, reply[1:], strict=True)]
        except (IndexError, TypeError, ValueError):
            raise StoreAway(_ODD) from None

    async def _ask(self, operation: str, key: bytes, *command: Argument) -> Any:
        """The reply to a command, sent to the server that has `key`. Raises StoreAway."""
        count = self._counts[operation]
        link = self._servers.link(key)
        if link is None:
            count.away += 1
            raise StoreAway("the shared store is away")
        started = monotonic()
        try:
            reply = await link.send(*command)
            if isinstance(reply, Refused):
                reply = await self._again(key, reply, command)
        except Lost:
            count.lost += 1
            raise
        if isinstance(reply, Refused):
            count.refused += 1
            self._refused(operation, key, reply.code)
            raise StoreAway("the shared store refused an operation")
        count.ok += 1
        count.ok_s += monotonic() - started
        return reply

    async def _again(self, key: bytes, refused: Refused, command: tuple[Argument, ...]) -> Any:
        """The reply to a command that has to be sent again: its key has moved, or the server does not know its script (any more). Raises Lost."""
        reply: Any = await self._servers.redirected(refused, command)
        if isinstance(reply, Refused) and reply.code == "NOSCRIPT":
            command = ("EVAL", _SCRIPTS[command[1]], *command[2:])
            link = self._servers.link(key)
            if link is None:
                raise Lost("the connection was lost")
            reply = await link.send(*command)
            if isinstance(reply, Refused):
                reply = await self._servers.redirected(reply, command)
        return reply

    def _refused(self, operation: str, key: bytes, code: str) -> None:
        if code in UNUSABLE:
            self._servers.fail(key, UNUSABLE[code])
            self._listener.restart()
        elif (operation, code) not in self._told:
            self._told.add((operation, code))
            logger.warning("the shared store refuses the operation %s: %s", operation, code)

    async def _check(self, link: Link) -> None:
        """Raise Lost unless the server can be written to and runs scripts, which it remembers."""
        key = self._prefix + _PROBE
        sent = [
            link.send("SET", key, b"", "PX", _PROBE_MS),
            link.send("EVAL", TAKE.text, 0, "0", ""),
            link.send("EVAL", RELEASE.text, 1, key, b"none"),
        ]
        for future in sent:
            accepted(await future)

    async def _check_node(self, link: Link) -> None:
        """The same for a node of a cluster, where the key of a probe may be at another node."""
        accepted(await link.send("EVAL", TAKE.text, 0, "0", ""))


@lru_cache(maxsize=1024)
def _arguments(rate: Rate) -> tuple[str, str, str, int]:
    return repr(rate.count), repr(rate.period_s), repr(rate.capacity), int(rate.is_quota)


def _milliseconds(ttl_s: float) -> int:
    return max(ceil(ttl_s * 1000), 1)


async def _all(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of operations that are sent at once. Raises StoreAway, after all of them have ended, if one of them does."""
    if len(asked) == 1:
        return [await asked[0]]
    found = await asyncio.gather(*asked, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]
