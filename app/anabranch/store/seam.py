"""The interface of a store."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from anabranch.core.rate import Bucket, Verdict


class StoreAway(Exception):
    """The store did not answer, or is known to be away. Each caller has a documented behaviour for this. Says nothing of the store's address."""


class Store(Protocol):
    """Everything raises StoreAway: within the store's own short timeout, and at once while it is known to be away. Nothing waits for a store that is away.

    Keys are bytes, without the store's own prefix. Cancellation: what was sent may have been done.
    """

    async def get(self, key: bytes) -> bytes | None:
        """The entry; None when there is none, or its time is over."""
        ...

    async def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store an entry for `ttl_s` seconds, in place of another one."""
        ...

    async def discard(self, *keys: bytes) -> int:
        """Remove entries. Returns how many there were."""
        ...

    async def take(self, buckets: Sequence[Bucket], cost: float) -> list[Verdict]:
        """Take `cost` units from each bucket, or from none if one of them does not allow it. One decision, atomic, by the store's own clock. The keys of the buckets
        differ."""
        ...

    async def lease(self, key: bytes, ttl_s: float) -> bytes | None:
        """Become the only holder of `key` for at most `ttl_s` seconds. Returns the token that releases it; None while another one holds it."""
        ...

    async def release(self, key: bytes, token: bytes) -> None:
        """Give a lease back, if this token still holds it."""
        ...

    async def publish(self, channel: bytes, message: bytes) -> None:
        """Tell all subscribers of a channel, this process's own too. Whoever does not listen at the moment never learns of it."""
        ...

    def subscribe(
        self, channel: bytes, on_message: Callable[[bytes], None], on_gap: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """Call `on_message` with each message while the context lasts, and `on_gap` whenever messages may have been missed: after the store was away.
        Both must be quick and must not raise. Entering it raises nothing: it subscribes as soon as the store is there."""
        ...
