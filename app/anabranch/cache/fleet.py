"""Sees to it that a missing answer is asked for by one gateway of a fleet, and that the others use it.

The gateway that asks holds a lease of the shared store. The others look for its answer until they get it, learn that it could not be stored, or get the lease.
Nothing is waited for while the store is away.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from anabranch.cache.entries import UNCACHEABLE_S, Entries
from anabranch.cache.entry import Entry, Slot, Uncacheable, Variants
from anabranch.cache.judge import path_of
from anabranch.cache.keys import variant_key
from anabranch.core.exchange import Request
from anabranch.store.seam import StoreAway

Lease = tuple[bytes, bytes]
"""What is leased, and the token that gives it back."""

_LONGEST_LEASE_S: Final = 10.0
_SHORTEST_LEASE_S: Final = 0.05
_WAIT_SHARE: Final = 0.75
"""How much of its time a call waits at most for the answer that another gateway has asked for: it must be able to ask itself."""
_FIRST_POLL_S: Final = 0.005
_LONGEST_POLL_S: Final = 0.05


class Fleet:
    """The other gateways, as seen by the calls to one upstream. `clock`: of deadlines. Only for entries with a shared store."""

    __slots__ = ("_clock", "_entries", "_upstream")

    def __init__(self, entries: Entries, upstream: str, clock: Callable[[], float]) -> None:
        self._entries = entries
        self._upstream = upstream
        self._clock = clock

    async def lead(self, key: bytes, request: Request, deadline: float, known: Entry | None) -> tuple[Entry | None, Lease | None]:
        """The answer that another gateway has asked for; or the lease to ask for it; or neither when the store is away or nothing came in time. `known`: the answer
        that does not serve the call."""
        shared, clock, flight = self._entries.shared, self._clock, self._entries.own_key(key, request)
        assert shared is not None
        left_s = deadline - clock()
        lease_s = min(max(left_s, _SHORTEST_LEASE_S), _LONGEST_LEASE_S)
        until = clock() + min(left_s * _WAIT_SHARE, lease_s)
        pause_s = _FIRST_POLL_S
        began_s = self._entries.clock()
        known_s = 0.0 if known is None else known.requested_s
        while True:
            try:
                token = await shared.lease(flight, lease_s)
            except StoreAway:
                return None, None
            if token is not None:
                # A holder that has gone may have stored the answer since it was looked for.
                found = await self._arrived(key, request, began_s, known_s)
                if found is None:
                    return None, (flight, token)
                await self.give_back((flight, token))
                return found if isinstance(found, Entry) else None, None
            if clock() + pause_s >= until:
                return None, None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_POLL_S)
            found = await self._arrived(key, request, began_s, known_s)
            if found is not None:
                return found if isinstance(found, Entry) else None, None

    async def _arrived(self, key: bytes, request: Request, began_s: float, known_s: float) -> Slot | None:
        """What was stored meanwhile: another fresh entry, or the mark that the answer is for nobody else. `known_s`: when the entry that was known before had been asked
        for."""
        path, now = path_of(request.target), self._entries.clock()
        slot = await self._entries.fetch(key, self._upstream, path)
        if isinstance(slot, Variants):
            slot = await self._entries.fetch(variant_key(slot, request), self._upstream, path)
        if isinstance(slot, Entry):
            if slot.requested_s == known_s:
                return None
            if now < slot.fresh_until_s:
                return slot
            return Uncacheable(slot.key, now) if slot.was_stale else None
        return slot if isinstance(slot, Uncacheable) and slot.until_s - UNCACHEABLE_S >= began_s - 1.0 else None

    async def share(self, slots: list[Slot], lease: Lease | None) -> None:
        """Store what came for all gateways, and give the lease back."""
        for slot in reversed(slots):
            await self._entries.share(slot)
        if lease is not None:
            await self.give_back(lease)

    async def give_back(self, lease: Lease) -> None:
        assert self._entries.shared is not None
        try:
            await self._entries.shared.release(*lease)
        except StoreAway:
            return
