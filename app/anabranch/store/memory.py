"""The store of one process. Bounded: it forgets what was not used for the longest time."""

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Final, TypeVar

from anabranch.core.rate import Bucket, Verdict, all_allowed, kept_s, look

V = TypeVar("V")

_MOST_ENTRIES: Final = 100_000


class MemoryStore:
    """See `Store`. Never away. `clock`: seconds since the epoch. `max_entries`: of entries, counters and leases each."""

    def __init__(self, *, clock: Callable[[], float] = time, max_entries: int = _MOST_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._counts: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self._leases: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._subscribers: dict[bytes, list[Callable[[bytes], None]]] = {}

    async def get(self, key: bytes) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return found[0]

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        _put(self._entries, key, (value, self._clock() + ttl_s), self._max_entries)

    async def discard(self, *keys: bytes) -> int:
        return sum(self._entries.pop(key, None) is not None for key in keys)

    async def take(self, buckets: Sequence[Bucket], cost: float) -> list[Verdict]:
        now = self._clock()
        if len(buckets) == 1:
            (bucket,) = buckets
            verdict, after = look(bucket.rate, self._state(bucket.key, now), now, cost)
            if verdict.is_allowed:
                _put(self._counts, bucket.key, (after, now + kept_s(bucket.rate, after, now)), self._max_entries)
            return [verdict]
        states = [self._state(bucket.key, now) for bucket in buckets]
        found = [look(bucket.rate, state, now, cost) for bucket, state in zip(buckets, states, strict=True)]
        verdicts = [verdict for verdict, _ in found]
        if all_allowed(verdicts):
            for bucket, (_, after) in zip(buckets, found, strict=True):
                _put(self._counts, bucket.key, (after, now + kept_s(bucket.rate, after, now)), self._max_entries)
        return verdicts

    def _state(self, key: bytes, now: float) -> float:
        found = self._counts.get(key)
        return 0.0 if found is None or found[1] <= now else found[0]

    async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
        now = self._clock()
        held = self._leases.get(key)
        if held is not None and held[1] > now:
            return None
        token = secrets.token_bytes(12)
        _put(self._leases, key, (token, now + ttl_s), self._max_entries)
        return token

    async def release(self, key: bytes, token: bytes) -> None:
        held = self._leases.get(key)
        if held is not None and held[0] == token:
            del self._leases[key]

    async def publish(self, channel: bytes, message: bytes) -> None:
        for on_message in tuple(self._subscribers.get(channel, ())):
            on_message(message)

    @asynccontextmanager
    async def subscribe(self, channel: bytes, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> AsyncIterator[None]:
        subscribers = self._subscribers.setdefault(channel, [])
        subscribers.append(on_message)
        try:
            yield
        finally:
            subscribers.remove(on_message)
            if not subscribers:
                self._subscribers.pop(channel, None)


def _put(entries: "OrderedDict[bytes, V]", key: bytes, value: V, most: int) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)
