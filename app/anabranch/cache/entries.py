"""Entries: answers of services by request, bounded in number and bytes.

**Source:** RFC 9111 sections 4.2.3 (age) and 5.2.2.5 (no-store).
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import Final

import msgspec

from anabranch.core.exchange import Answer, Request
from anabranch.core.forwarding import CHAINS, FORWARDING

Key = tuple[object, ...]
"""What requests must have in common to share an entry."""

_REACHED_BY: Final = frozenset(FORWARDING) - CHAINS
_OVERHEAD_BYTES: Final = 512
_MAX_AGE_HEADER_S: Final = 2**31


class StoredAnswer(msgspec.Struct, frozen=True):
    """`since_s`: when the response was fresh, in time of the layer's clock: its arrival minus its `Age`. `size_bytes`: approximate."""

    answer: Answer
    since_s: float
    size_bytes: int


class StaleStore:
    """Good responses by request, bounded in number and bytes; evicts the least recently used. Owned by the process, so it outlives reloads.

    `size_bytes`: approximate memory in use.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._stored: OrderedDict[Key, StoredAnswer] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    def bound(self, *, max_entries: int, max_bytes: int) -> None:
        """Change the bounds. Evicts entries that exceed them."""
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._evict()

    def put(self, key: Key, answer: Answer, since_s: float) -> None:
        """Store a response, replacing the one at `key`. Does not store one that is larger than the whole store may be."""
        self.discard(key)
        size_bytes = _OVERHEAD_BYTES + len(answer.body) + sum(len(name) + len(value) for name, value in answer.headers)
        if size_bytes > self._max_bytes:
            return
        self._stored[key] = StoredAnswer(answer, since_s, size_bytes)
        self.size_bytes += size_bytes
        self._evict()

    def get(self, key: Key) -> StoredAnswer | None:
        found = self._stored.get(key)
        if found is not None:
            self._stored.move_to_end(key)
        return found

    def add_missing(self, other: "StaleStore") -> None:
        """Add the entries of `other` whose keys are not stored here. Keeps existing entries, which are newer."""
        for key, stored in other._stored.items():  # noqa: SLF001 - same class
            if key not in self._stored:
                self.put(key, stored.answer, stored.since_s)

    def discard(self, key: Key) -> None:
        found = self._stored.pop(key, None)
        if found is not None:
            self.size_bytes -= found.size_bytes

    def _evict(self) -> None:
        while self._stored and (len(self._stored) > self._max_entries or self.size_bytes > self._max_bytes):
            _, oldest = self._stored.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


def recorded_origin(origin: str, request: Request) -> str:
    """What a record keeps of a call's header fields: `origin` (`StaleRule.origin`), and a digest of the host, scheme and prefix by which the service is
    told that it is reached, since its answer may differ by them. The client's address is not part of it."""
    told = [value for pair in request.extra if pair[0] in _REACHED_BY for value in pair]
    return f"{origin}/{blake2b(bytes((0,)).join(told), digest_size=6).hexdigest()}" if told else origin


def recorded_key(origin: str, method: str, target: str) -> Key:
    """The key of a response read from the journal, which keeps no request header fields. Only for calls whose fields are all fixed by the
    document. `origin`: see `recorded_origin`."""
    return ("recorded", origin, method, target)


def may_be_stored(answer: Answer) -> bool:
    """Whether the response allows storing it: no `Cache-Control: no-store`."""
    return not any(name == b"cache-control" and b"no-store" in value.lower() for name, value in answer.headers)


def age_of(answer: Answer) -> float:
    """The response's own age in seconds, from its `Age` field: time in transit and in caches. 0 without a valid field."""
    value = answer.header(b"age")
    return float(min(int(value), _MAX_AGE_HEADER_S)) if value is not None and value.isdigit() and len(value) < 20 else 0.0
