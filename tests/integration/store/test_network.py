"""The store behind a bad network: silent, slow, cut in the middle of a reply."""

import asyncio
import time

import pytest

from anabranch.store.redis import RedisStore
from anabranch.store.seam import StoreAway
from anabranch.store.settings import Place, RedisSettings
from tests.support.eventually import eventually
from tests.support.tcp_proxy import CLEAR, LOOPBACK, Conditions, TCPProxy
from tests.support.valkey import ValkeyServer

VALUE = bytes(range(256)) * 400


def through(proxy: TCPProxy, timeout_s: float = 0.2) -> RedisSettings:
    return RedisSettings(places=(Place(LOOPBACK, proxy.port),), prefix=b"network:", timeout_s=timeout_s)


async def is_back(store: RedisStore) -> None:
    await eventually(lambda: not list(store.notes()))


async def test_a_connection_that_is_never_accepted_costs_no_request_anything(valkey: ValkeyServer) -> None:
    async with TCPProxy(valkey.port, Conditions(accept="ignore")) as proxy:
        started = time.monotonic()
        async with RedisStore(through(proxy)) as store:
            assert time.monotonic() - started < 5
            assert list(store.notes()) == ["the shared store is away: it does not answer"]
            started = time.monotonic()
            for _ in range(200):
                with pytest.raises(StoreAway):
                    await store.get(b"a")
            assert time.monotonic() - started < 1
            await proxy.become(CLEAR)
            await is_back(store)
            assert await store.get(b"a") is None


async def test_a_network_that_swallows_everything_is_noticed_by_the_timeout(valkey: ValkeyServer) -> None:
    async with TCPProxy(valkey.port) as proxy, RedisStore(through(proxy)) as store:
        await store.put(b"b", b"1", 60)
        await proxy.become(Conditions(is_black_hole=True))
        started = time.monotonic()
        found = await asyncio.gather(*(store.get(b"b") for _ in range(10)), return_exceptions=True)
        assert all(isinstance(each, StoreAway) for each in found)
        assert 0.1 < time.monotonic() - started < 3
        await proxy.become(CLEAR)
        await is_back(store)
        # What was held back arrives on connections that nobody reads any more.
        assert await store.get(b"b") == b"1"


async def test_a_reply_that_is_cut_off_is_no_reply(valkey: ValkeyServer) -> None:
    async with TCPProxy(valkey.port) as proxy, RedisStore(through(proxy, timeout_s=2.0)) as store:
        await store.put(b"c", VALUE, 60)
        for cut_by in ("close", "reset"):
            await proxy.become(Conditions(cut_after=5000, cut_by=cut_by))
            with pytest.raises(StoreAway):
                await store.get(b"c")
            await proxy.become(CLEAR)
            await is_back(store)
            assert await store.get(b"c") == VALUE


async def test_a_network_slower_than_the_timeout_is_no_store(valkey: ValkeyServer) -> None:
    async with TCPProxy(valkey.port, Conditions(latency_s=0.1)) as proxy, RedisStore(through(proxy, timeout_s=0.02)) as store:
        assert list(store.notes()) == ["the shared store is away: it did not answer in time"]
        with pytest.raises(StoreAway):
            await store.get(b"a")
        await proxy.become(CLEAR)
        await is_back(store)


async def test_a_large_value_passes_in_pieces_and_does_not_hold_up_other_connections(valkey: ValkeyServer) -> None:
    async with TCPProxy(valkey.port) as proxy, RedisStore(through(proxy, timeout_s=5.0)) as store:
        await eventually(lambda: proxy.open == 3)
        large = VALUE * 20
        await store.put(b"large", large, 60)
        await proxy.become(Conditions(bytes_per_s=4_000_000))
        reading = asyncio.create_task(store.get(b"large"))
        await asyncio.sleep(0)
        assert await store.get(b"small") is None
        assert not reading.done()
        assert await reading == large
