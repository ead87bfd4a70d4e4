"""The store of one process: the same behaviour as the shared one, within bounds."""

from anabranch.core.rate import Bucket, Rate
from anabranch.store.memory import MemoryStore
from tests.support.clock import FakeClock


async def test_entries_are_stored_replaced_expired_and_removed() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    assert await store.get(b"a") is None
    await store.put(b"a", b"1", 10)
    await store.put(b"a", b"2", 20)
    clock.advance(19.9)
    assert await store.get(b"a") == b"2"
    clock.advance(0.1)
    assert await store.get(b"a") is None
    await store.put(b"b", b"1", 10)
    assert await store.discard(b"a", b"b") == 1
    assert await store.get(b"b") is None


async def test_the_entry_that_was_not_used_for_the_longest_time_makes_room() -> None:
    store = MemoryStore(clock=FakeClock(), max_entries=2)
    await store.put(b"a", b"1", 10)
    await store.put(b"b", b"1", 10)
    await store.get(b"a")
    await store.put(b"c", b"1", 10)
    assert [await store.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"1"]


async def test_units_are_taken_from_all_buckets_or_from_none() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    narrow, wide = Bucket(b"narrow", Rate(1, 60, 1)), Bucket(b"wide", Rate(10, 60, 10, is_quota=True))
    assert [verdict.is_allowed for verdict in await store.take([narrow, wide], 1)] == [True, True]
    assert [verdict.is_allowed for verdict in await store.take([narrow, wide], 1)] == [False, True]
    assert (await store.take([wide], 1))[0].remaining == 8
    clock.advance(60)
    assert [verdict.remaining for verdict in await store.take([narrow, wide], 1)] == [0, 9]
    assert await store.take([], 1) == []


async def test_a_lease_has_one_holder_until_it_is_released_or_over() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    token = await store.lease(b"a", 10)
    assert token is not None
    assert await store.lease(b"a", 10) is None
    await store.release(b"a", b"another")
    assert await store.lease(b"a", 10) is None
    await store.release(b"a", token)
    second = await store.lease(b"a", 10)
    assert second is not None
    clock.advance(10)
    third = await store.lease(b"a", 10)
    assert third not in (None, second)
    await store.release(b"a", second)
    assert await store.lease(b"a", 10) is None


async def test_messages_reach_the_subscribers_of_the_channel_while_they_listen() -> None:
    store = MemoryStore()
    heard: list[bytes] = []
    async with store.subscribe(b"a", heard.append, lambda: None), store.subscribe(b"b", heard.append, lambda: None):
        await store.publish(b"a", b"1")
    await store.publish(b"a", b"2")
    assert heard == [b"1"]
