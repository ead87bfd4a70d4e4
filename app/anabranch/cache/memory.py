"""The entries in the memory of this process: bounded in bytes and number. Evicts the least recently used."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from anabranch.cache.entry import Entry, Slot


class Memory:
    """Slots by key. A slot that is larger than `max_entry_bytes` is not admitted: one large answer must not displace all others.

    `size_bytes`: approximate memory in use. `evictions`: how many slots had to go so far.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, max_entry_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_entry_bytes = max_entry_bytes
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()
        self.size_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._slots)

    def bound(self, *, max_entries: int, max_bytes: int, max_entry_bytes: int) -> None:
        """Change the bounds. Evicts what exceeds them."""
        self._max_entries, self._max_bytes, self._max_entry_bytes = max_entries, max_bytes, max_entry_bytes
        self._evict()

    def get(self, key: bytes) -> Slot | None:
        found = self._slots.get(key)
        if found is not None:
            self._slots.move_to_end(key)
        return found

    def put(self, slot: Slot) -> bool:
        """Store a slot in place of the one with its key. False when it is too large; then there is none with its key."""
        self.discard(slot.key)
        size_bytes = slot.size_bytes
        if size_bytes > min(self._max_entry_bytes, self._max_bytes):
            return False
        self._slots[slot.key] = slot
        self.size_bytes += size_bytes
        self._evict()
        return True

    def discard(self, key: bytes) -> bool:
        found = self._slots.pop(key, None)
        if found is None:
            return False
        self.size_bytes -= found.size_bytes
        return True

    def add_missing(self, other: "Memory") -> None:
        """Add the slots of `other` whose keys are not here. Keeps what is here, which is newer."""
        for key, slot in other._slots.items():  # noqa: SLF001 - same class
            if key not in self._slots:
                self.put(slot)

    def entries(self) -> Iterator[Entry]:
        """All entries, the least recently used first."""
        return (slot for slot in tuple(self._slots.values()) if isinstance(slot, Entry))

    def remove(self, is_meant: Callable[[Entry], bool]) -> int:
        """Remove the entries of which this is true. Returns how many there were."""
        return sum(self.discard(entry.key) for entry in self.entries() if is_meant(entry))

    def clear(self) -> None:
        self._slots.clear()
        self.size_bytes = 0

    def _evict(self) -> None:
        while self._slots and (len(self._slots) > self._max_entries or self.size_bytes > self._max_bytes):
            _, oldest = self._slots.popitem(last=False)
            self.size_bytes -= oldest.size_bytes
            self.evictions += 1
