"""The entries in the memory of this process: bounded in bytes and number. Evicts the least recently used."""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from anabranch.cache.entry import Entry, Slot
from anabranch.cache.purge import ALL, Purge

_RECENT: Final = 1000


class Bounds(msgspec.Struct, frozen=True):
    """Of the memory. `max_entry_bytes`: of one entry."""

    max_bytes: int = 64 << 20
    max_entries: int = 100_000
    max_entry_bytes: int = 8 << 20


class Memory:
    """Slots by key. Owned by the process, so it outlives reloads. A slot that is larger than an entry may be is not admitted: one large answer must not displace all others.

    `size_bytes`: approximate memory in use. `evictions`: how many slots had to make room so far. `purged`: how many entries were removed by purges.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._recent: deque[Purge] = deque(maxlen=_RECENT)
        self.purged = 0
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()
        self._keys: dict[tuple[str, ...], set[bytes]] = {}  # of entries, by what purges name: tag, or upstream and path
        self.size_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._slots)

    def bound(self, bounds: Bounds) -> None:
        """Change the bounds. Evicts what exceeds them."""
        self._bounds = bounds
        self._evict()

    def get(self, key: bytes) -> Slot | None:
        found = self._slots.get(key)
        if found is not None:
            self._slots.move_to_end(key)
        return found

    def put(self, slot: Slot) -> bool:
        """Store a slot in place of the one with its key. False when it is too large, or when a purge has ended the entry while the answer was on its way; then
        there is none with its key."""
        self.discard(slot.key)
        size_bytes = slot.size_bytes
        if size_bytes > min(self._bounds.max_entry_bytes, self._bounds.max_bytes) or (isinstance(slot, Entry) and self.is_ended(slot)):
            return False
        self._slots[slot.key] = slot
        self.size_bytes += size_bytes
        if isinstance(slot, Entry):
            for name in _names(slot):
                self._keys.setdefault(name, set()).add(slot.key)
        self._evict()
        return True

    def discard(self, key: bytes) -> bool:
        found = self._slots.pop(key, None)
        if found is None:
            return False
        self._removed(found)
        return True

    def _removed(self, slot: Slot) -> None:
        self.size_bytes -= slot.size_bytes
        if isinstance(slot, Entry):
            for name in _names(slot):
                keys = self._keys[name]
                keys.discard(slot.key)
                if not keys:
                    del self._keys[name]

    def add_missing(self, other: "Memory") -> None:
        """Add the slots of `other` whose keys are not here. Keeps what is here, which is newer."""
        for key, slot in other._slots.items():  # noqa: SLF001 - same class
            if key not in self._slots:
                self.put(slot)

    def entries(self) -> Iterator[Entry]:
        """All entries, the least recently used first."""
        return (slot for slot in tuple(self._slots.values()) if isinstance(slot, Entry))

    def purge(self, message: Purge) -> int:
        """Remove what a purge names, and do not admit what was asked for before it. Returns how many entries there were."""
        self._recent.append(message)
        if message.everything:
            removed = sum(isinstance(slot, Entry) for slot in self._slots.values())
            self._clear()
        else:
            places = self._places_of(message.paths) if message.paths else ()
            names = (*((tag,) for tag in message.tags), *message.places, *places)
            removed = sum(self.discard(key) for name in names for key in tuple(self._keys.get(name, ())))
        self.purged += removed
        return removed

    def _places_of(self, paths: Collection[str]) -> list[tuple[str, ...]]:
        """Upstream and path of all entries that these paths of a purge name."""
        whole = {path for path in paths if not path.endswith(ALL)}
        beginnings = tuple(path.removesuffix(ALL) for path in paths if path.endswith(ALL))
        return [name for name in self._keys if len(name) == 2 and (name[1] in whole or name[1].startswith(beginnings))]

    def forget_shared(self) -> None:
        """Purges may have been missed: remove the slots that are in the shared store too."""
        own = [slot for slot in self._slots.values() if isinstance(slot, Entry) and slot.is_fallback]
        self._clear()
        for slot in own:
            self.put(slot)

    def _clear(self) -> None:
        self._slots.clear()
        self._keys.clear()
        self.size_bytes = 0

    def is_ended(self, entry: Entry) -> bool:
        """Whether a purge came after the entry's answer had been asked for."""
        for message in reversed(self._recent):
            if message.at_s < entry.requested_s:
                return False
            if message.concerns(entry):
                return True
        return False

    def _evict(self) -> None:
        while self._slots and (len(self._slots) > self._bounds.max_entries or self.size_bytes > self._bounds.max_bytes):
            _, oldest = self._slots.popitem(last=False)
            self._removed(oldest)
            self.evictions += 1


def _names(entry: Entry) -> Iterator[tuple[str, ...]]:
    yield entry.upstream, entry.path
    for tag in dict.fromkeys(entry.tags):
        yield (tag,)
