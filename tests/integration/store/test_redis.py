"""The store in a real Valkey: each operation, and what happens when the server is stopped, frozen, flushed or restarted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from anabranch.store.redis import RedisStore
from anabranch.store.settings import Place, RedisSettings
from tests.support.eventually import eventually
from tests.support.leaks import no_leaks
from tests.support.valkey import HOST, ValkeyServer

_PREFIXES = count()
PATIENT_S = 2.0
"""For tests that are not about the timeout: this machine may be busy."""


def settings_for(server: ValkeyServer, timeout_s: float = PATIENT_S) -> RedisSettings:
    return RedisSettings(places=(Place(HOST, server.port),), prefix=f"redis{next(_PREFIXES)}:".encode(), timeout_s=timeout_s)


@asynccontextmanager
async def opened(settings: RedisSettings) -> AsyncIterator[RedisStore]:
    async with no_leaks(), RedisStore(settings) as store:
        yield store


def is_away(store: RedisStore) -> bool:
    return bool(list(store.notes()))


async def is_back(store: RedisStore) -> None:
    await eventually(lambda: not is_away(store))


async def test_entries_are_stored_replaced_and_removed(valkey: ValkeyServer) -> None:
    async with opened(settings_for(valkey)) as store:
        assert await store.get(b"a") is None
        await store.put(b"a", b"1", 60)
        await store.put(b"a", b"\x00\xff\r\n", 60)
        await store.put(b"b", b"", 60)
        assert await store.get(b"a") == b"\x00\xff\r\n"
        assert await store.get(b"b") == b""
        assert await store.discard(b"a", b"b", b"c") == 2
        assert await store.discard() == 0
        assert await store.get(b"a") is None
