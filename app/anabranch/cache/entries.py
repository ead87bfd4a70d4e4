"""The store of entries: memory, and the shared store where there is one.

The memory is of the process, so that entries outlive reloads. Everything in it is at hand at once; what asks the shared store gives up as soon as that is away, and
memory alone goes on.
"""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack
from time import time
from typing import Final, Self

import msgspec

from anabranch.cache.entry import Entry, Slot, Uncacheable, Variants
from anabranch.cache.judge import path_of
from anabranch.cache.keys import variant_key
from anabranch.cache.memory import Memory
from anabranch.cache.purge import Purge
from anabranch.cache.shared import Shared
from anabranch.core.exchange import Request
from anabranch.core.metric import Sample, metric
from anabranch.store.seam import Store, StoreAway

UNCACHEABLE_S: Final = 10.0
"""How long the requests for an answer that could not be stored do not wait for each other."""
_MOST_SHARED_BYTES: Final = 1 << 20
_VALIDATED_S: Final = 3600.0
"""How long a stale entry with a validator stays in the shared store."""

ENTRIES: Final = metric("gauge", "cache_entries", "", "Stored answers in the memory of the cache.")
BYTES: Final = metric("gauge", "cache_bytes", "", "Memory in use by the cache, approximately.")
EVICTIONS: Final = metric("counter", "cache_evictions", "", "Stored answers that had to make room for others.")
PURGED: Final = metric("counter", "cache_purged", "", "Stored answers that were removed by a purge or a call that changes something.")


class Listed(msgspec.Struct, frozen=True):
    """An entry as an operator sees it. `fresh_s`: for how long it is fresh; 0 or less: it is stale, or has to be validated before each use. `size_bytes`: approximate, in memory."""

    upstream: str
    path: str
    status: int
    age_s: float
    fresh_s: float
    size_bytes: int
    tags: tuple[str, ...]


class Entries:
    """An async context manager: listens to the purges of other gateways. Without a shared store it need not be entered.

    `memory`: of the process. `clock`: seconds since the epoch.
    """

    def __init__(self, memory: Memory, *, shared: Store | None = None, clock: Callable[[], float] = time) -> None:
        self.memory = memory
        self.clock = clock
        self.shared = None if shared is None else Shared(shared, clock)
        self._id = secrets.token_bytes(8)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self.shared is not None:
            await self._exits.enter_async_context(self.shared.listen(self._on_purge, self.memory.forget_shared))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def peek(self, key: bytes, request: Request) -> Slot | None:
        """What is in memory for a request. `Variants` when no variant is for it."""
        slot = self.memory.get(key)
        return self.memory.get(variant_key(slot, request)) or slot if isinstance(slot, Variants) else slot

    def own_key(self, key: bytes, request: Request) -> bytes:
        """The key of the answer to this very request, as far as it is known by which fields answers differ."""
        slot = self.memory.get(key)
        return variant_key(slot, request) if isinstance(slot, Variants) else key

    async def find(self, key: bytes, upstream: str, request: Request) -> Slot | None:
        """What is stored for a request, in memory or else in the shared store. `Variants` when no variant is for it."""
        path = path_of(request.target)
        slot = await self._at(key, upstream, path)
        if isinstance(slot, Variants):
            return await self._at(variant_key(slot, request), upstream, path) or slot
        return slot

    async def _at(self, key: bytes, upstream: str, path: str) -> Slot | None:
        slot = self.memory.get(key)
        if self.shared is None or (slot is not None and self.clock() < (slot.fresh_until_s if isinstance(slot, Entry) else slot.until_s)):
            return slot
        return await self.fetch(key, upstream, path) or slot

    async def fetch(self, key: bytes, upstream: str, path: str) -> Slot | None:
        """What the shared store has under `key`; then memory has it too. None also when the store is away."""
        if self.shared is None:
            return None
        try:
            slot = await self.shared.get(key, upstream, path)
        except StoreAway:
            return None
        if isinstance(slot, Uncacheable | Variants) and slot.until_s <= self.clock():
            return None
        if slot is not None:
            self.memory.put(slot)
        return slot

    async def share(self, slot: Slot) -> None:
        """Store a slot in the shared store, if it is there."""
        if self.shared is None:
            return
        if slot.size_bytes > _MOST_SHARED_BYTES or self._kept_until_s(slot) <= self.clock():
            # It takes too long to write, or is of no use later; but others must not wait for it.
            slot = Uncacheable(slot.key, self.clock() + UNCACHEABLE_S)
        try:
            await self.shared.put(slot, self._kept_until_s(slot) - self.clock())
        except StoreAway:
            return

    async def discard(self, key: bytes) -> None:
        """Remove one slot everywhere, except in the memory of other gateways."""
        self.memory.discard(key)
        if self.shared is not None:
            try:
                await self.shared.discard(key)
            except StoreAway:
                return

    async def changed(self, upstream: str, paths: Collection[str]) -> None:
        """Something below these paths of an upstream has changed: remove their entries, of all queries and principals."""
        message = Purge(self.clock(), self._id, places=tuple((upstream, path) for path in paths))
        self.memory.purge(message)
        if self.shared is not None:
            try:
                await self.shared.send(message)
            except StoreAway:
                return

    async def purge(self, *, tags: Collection[str] = (), paths: Collection[str] = (), everything: bool = False) -> int:
        """Remove entries everywhere: those with one of the tags, those of one of the paths (`/users/7`; `/users/*` for all that begin so), or all. Returns how
        many were in the memory of this process. Raises StoreAway when other gateways cannot be told; here they are removed."""
        removed = self.purge_here(tags=tags, paths=paths, everything=everything)
        await self.tell_others(tags=tags, paths=paths, everything=everything)
        return removed

    def purge_here(self, *, tags: Collection[str] = (), paths: Collection[str] = (), everything: bool = False) -> int:
        """The same in the memory of this process alone."""
        return self.memory.purge(self._purge_of(tags, paths, everything=everything))

    async def tell_others(self, *, tags: Collection[str] = (), paths: Collection[str] = (), everything: bool = False) -> None:
        """The same in the shared store, and so in all other gateways that use it. Raises StoreAway."""
        if self.shared is not None:
            await self.shared.send(self._purge_of(tags, paths, everything=everything))

    def _purge_of(self, tags: Collection[str], paths: Collection[str], *, everything: bool) -> Purge:
        return Purge(self.clock(), self._id, tags=tuple(tags), paths=tuple(paths), everything=everything)

    def ls(self) -> Iterator[Listed]:
        """The entries that are in memory now, the most recently used first. The iterator may be read in another thread."""
        now = self.clock()
        return (
            Listed(
                entry.upstream,
                entry.path,
                entry.answer.status,
                now - entry.since_s,
                entry.fresh_until_s - now if entry.fresh_until_s else 0.0,
                entry.size_bytes,
                entry.tags,
            )
            for entry in reversed(tuple(self.memory.entries()))
        )

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(ENTRIES, (), len(self.memory))
        yield Sample(BYTES, (), self.memory.size_bytes)
        yield Sample(EVICTIONS, (), self.memory.evictions)
        yield Sample(PURGED, (), self.memory.purged)

    def _on_purge(self, message: Purge) -> None:
        if message.by != self._id:
            self.memory.purge(message)

    def _kept_until_s(self, slot: Slot) -> float:
        if not isinstance(slot, Entry):
            return slot.until_s
        validated_s = self.clock() + _VALIDATED_S if slot.has_validator else 0.0
        return max(slot.fresh_until_s, slot.revalidate_until_s, slot.error_until_s, validated_s)
