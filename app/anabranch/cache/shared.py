"""The entries in the shared store, and what tells all gateways of a fleet which of them are out of date.

An entry lies under a digest of its key. A purge is published, and it leaves a mark for gateways that read entries later: under its tag or place, or in a
short list where it names paths or everything. Entries that are older than a mark are none. So a purge costs the same whatever is stored.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from typing import Final

from anabranch.cache import purge
from anabranch.cache.entry import Entry, Slot, decode, encode
from anabranch.cache.purge import Purge
from anabranch.store.seam import Store

_CHANNEL: Final = b"cache:purge"
_LIST: Final = b"cache:purges"
_LOCK: Final = b"cache:purges:lock"
_LOCK_S: Final = 1.0
_LOCK_PAUSE_S: Final = 0.01
_LOCK_TRIES: Final = round(1.1 * _LOCK_S / _LOCK_PAUSE_S)
"""Longer than a holder that has gone keeps it: two lists that are written at once would lose a purge."""
_MOST_LISTED: Final = 200
_LONGEST_S: Final = 86400.0
"""How long an entry and a mark stay at most: an entry must never outlive the mark that ends it."""
_LEAST_S: Final = 1.0
SKEW_S: Final = 1.0
"""By how much the clocks of two gateways may differ. Entries of one second after a purge count as older than it."""


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).hexdigest().encode()


def _mark(kind: bytes, name: bytes) -> bytes:
    return b"cache:mark:%b:%b" % (kind, _digest(name))


def _place(upstream: str, path: str) -> bytes:
    return f"{upstream}\0{path}".encode()


class Shared:
    """Everything raises StoreAway."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def get(self, key: bytes, upstream: str, path: str) -> Slot | None:
        """The slot under `key`, unless it is out of date or nothing of ours. One round trip, and another one for an entry with tags."""
        store = self._store
        value, list_, marked = await asyncio.gather(
            store.get(b"cache:" + _digest(key)), store.get(_LIST), store.get(_mark(b"place", _place(upstream, path)))
        )
        slot = None if value is None else decode(value, key)
        if not isinstance(slot, Entry):
            return slot
        marks = [marked]
        if slot.tags:
            marks += await asyncio.gather(*(store.get(_mark(b"tag", tag.encode())) for tag in slot.tags))
        if any(mark is not None and slot.requested_s <= _seconds(mark) + SKEW_S for mark in marks):
            return None
        return None if any(one.ends(slot, SKEW_S) for one in purge.decode_list(list_)) else slot

    async def put(self, slot: Slot, ttl_s: float) -> None:
        await self._store.put(b"cache:" + _digest(slot.key), encode(slot), min(max(ttl_s, _LEAST_S), _LONGEST_S))

    async def discard(self, key: bytes) -> None:
        await self._store.discard(b"cache:" + _digest(key))

    async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
        """Become the only gateway that asks for what `key` stands for. None while another one does."""
        return await self._store.lease(b"cache:flight:" + _digest(key), ttl_s)

    async def release(self, key: bytes, token: bytes) -> None:
        await self._store.release(b"cache:flight:" + _digest(key), token)

    async def send(self, message: Purge) -> None:
        """Make a purge known to gateways that run, and to those that read entries later."""
        at = b"%.3f" % message.at_s
        marks = [_mark(b"tag", tag.encode()) for tag in message.tags] + [_mark(b"place", _place(*one)) for one in message.places]
        await asyncio.gather(*(self._store.put(mark, at, _LONGEST_S) for mark in marks))
        if message.paths or message.everything:
            await self._list(message)
        await self._store.publish(_CHANNEL, purge.encode(message))

    async def _list(self, message: Purge) -> None:
        token = None
        for _ in range(_LOCK_TRIES):
            if (token := await self._store.lease(_LOCK, _LOCK_S)) is not None:
                break
            await asyncio.sleep(_LOCK_PAUSE_S)
        try:
            known = [one for one in purge.decode_list(await self._store.get(_LIST)) if one.at_s > self._clock() - _LONGEST_S]
            known.append(message)
            if len(known) > _MOST_LISTED or message.everything:
                known = [Purge(message.at_s, message.by, everything=True)]
            await self._store.put(_LIST, purge.encode(known), _LONGEST_S)
        finally:
            if token is not None:
                await self._store.release(_LOCK, token)

    def listen(self, on_purge: Callable[[Purge], None], on_gap: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Call `on_purge` with the purges of all gateways while the context lasts, and `on_gap` when some may have been missed."""

        def on_message(message: bytes) -> None:
            found = purge.decode(message)
            if found is not None:
                on_purge(found)

        return self._store.subscribe(_CHANNEL, on_message, on_gap)


def _seconds(mark: bytes) -> float:
    """When a mark was set. What cannot be read ends everything."""
    try:
        return float(mark)
    except ValueError:
        return float("inf")
