"""The store in a real Valkey: each operation, and what happens when the server is stopped, frozen, flushed or restarted."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import msgspec
import pytest

from anabranch.core.rate import Bucket, Rate
from anabranch.store.redis import RedisStore
from anabranch.store.seam import StoreAway
from anabranch.store.settings import Login, Place, RedisSettings
from tests.support.eventually import eventually
from tests.support.leaks import no_leaks
from tests.support.paths import ROOT
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


async def test_an_entry_lasts_as_long_as_it_was_put_for(valkey: ValkeyServer) -> None:
    settings = settings_for(valkey)
    async with opened(settings) as store:
        await store.put(b"a", b"1", 60)
        await store.put(b"b", b"1", 0.0001)
        assert 59_000 < valkey.call("PTTL", settings.prefix + b"e:a") <= 60_000
        assert valkey.call("PTTL", settings.prefix + b"e:b") <= 1


async def test_entries_counts_and_leases_of_the_same_key_are_apart(valkey: ValkeyServer) -> None:
    async with opened(settings_for(valkey)) as store:
        await store.put(b"a", b"entry", 60)
        assert await store.lease(b"a", 60) is not None
        assert (await store.take([Bucket(b"a", Rate(1, 60, 1))], 1))[0].is_allowed
        assert await store.get(b"a") == b"entry"


async def test_gateways_with_another_prefix_share_nothing(valkey: ValkeyServer) -> None:
    async with opened(settings_for(valkey)) as one, opened(settings_for(valkey)) as other:
        await one.put(b"a", b"1", 60)
        assert await other.get(b"a") is None


async def test_units_are_taken_from_all_buckets_or_from_none(valkey: ValkeyServer) -> None:
    narrow, wide = Bucket(b"narrow", Rate(2, 3600, 2)), Bucket(b"wide", Rate(10, 3600, 10, is_quota=True))
    async with opened(settings_for(valkey)) as store, opened(settings_for(valkey)):
        assert [(verdict.is_allowed, verdict.remaining) for verdict in await store.take([narrow, wide], 1)] == [(True, 1), (True, 9)]
        assert [(verdict.is_allowed, verdict.remaining) for verdict in await store.take([narrow, wide], 1)] == [(True, 0), (True, 8)]
        refused = await store.take([narrow, wide], 1)
        assert [verdict.is_allowed for verdict in refused] == [False, True]
        assert 1700 < refused[0].retry_after_s <= 1800
        assert (await store.take([wide], 1))[0].remaining == 7
        assert await store.take([], 1) == []


async def test_many_at_once_take_no_more_than_there_is(valkey: ValkeyServer) -> None:
    settings = settings_for(valkey)
    bucket = Bucket(b"all", Rate(50, 3600, 50))
    async with opened(settings) as one, opened(settings) as other:
        found = await asyncio.gather(*(store.take([bucket], 1) for _ in range(60) for store in (one, other)))
    assert sum(verdict.is_allowed for (verdict,) in found) == 50


async def test_counts_expire_by_themselves_once_the_bucket_is_full_again(valkey: ValkeyServer) -> None:
    settings = settings_for(valkey)
    async with opened(settings) as store:
        await store.take([Bucket(b"rate", Rate(10, 60, 10)), Bucket(b"quota", Rate(10, 86_400, 10, is_quota=True))], 2)
    assert 11_000 < valkey.call("PTTL", settings.prefix + b"c:rate") <= 12_000
    left_s = 86_400 - time.time() % 86_400
    assert valkey.call("PTTL", settings.prefix + b"c:quota") == pytest.approx(left_s * 1000, abs=2000)


async def test_a_lease_has_one_holder_and_only_that_one_releases_it(valkey: ValkeyServer) -> None:
    settings = settings_for(valkey)
    async with opened(settings) as store, opened(settings) as other:
        token = await store.lease(b"a", 60)
        assert token is not None
        assert await other.lease(b"a", 60) is None
        await other.release(b"a", b"not the token")
        assert await other.lease(b"a", 60) is None
        await store.release(b"a", token)
        assert await other.lease(b"a", 0.001) is not None
        await eventually(lambda: valkey.call("EXISTS", settings.prefix + b"l:a") == 0)
        assert await store.lease(b"a", 60) is not None


async def test_messages_reach_every_subscriber_of_the_channel_and_nobody_else(valkey: ValkeyServer) -> None:
    settings = settings_for(valkey)
    heard: list[tuple[str, bytes]] = []
    async with opened(settings) as one, opened(settings) as other, opened(settings_for(valkey)) as stranger:
        async with (
            one.subscribe(b"purge", lambda message: heard.append(("one", message)), lambda: heard.append(("one", b"gap"))),
            one.subscribe(b"purge", lambda message: heard.append(("again", message)), lambda: None),
            other.subscribe(b"purge", lambda message: heard.append(("other", message)), lambda: heard.append(("other", b"gap"))),
            other.subscribe(b"else", lambda message: heard.append(("else", message)), lambda: None),
            stranger.subscribe(b"purge", lambda message: heard.append(("stranger", message)), lambda: None),
        ):
            await one.publish(b"purge", b"\x00 all")
            await eventually(lambda: len(heard) == 3)
        await one.publish(b"purge", b"nobody listens any more")
        async with other.subscribe(b"else", lambda message: heard.append(("else", message)), lambda: None):
            await one.publish(b"else", b"last")
            await eventually(lambda: heard[-1] == ("else", b"last"))
    assert sorted(heard[:3]) == [("again", b"\x00 all"), ("one", b"\x00 all"), ("other", b"\x00 all")]
    assert len(heard) == 4


async def test_a_store_that_is_not_there_at_the_start_is_found_later(valkey: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    valkey.stop()
    gaps: list[None] = []
    async with opened(settings_for(valkey)) as store:
        assert list(store.notes()) == ["the shared store is away: it cannot be reached"]
        async with store.subscribe(b"a", lambda _: None, lambda: gaps.append(None)):
            with pytest.raises(StoreAway):
                await store.get(b"a")
            valkey.start()
            await is_back(store)
            assert await store.get(b"a") is None
            await eventually(lambda: len(gaps) == 1)
    said = [record.getMessage() for record in caplog.records if record.name == "anabranch.store"]
    assert said[0] == "the shared store is away: it cannot be reached"
    assert said[1].startswith("the shared store is back after")
    assert len(said) == 2


async def test_a_server_that_stops_and_starts_again_costs_no_request_more_than_the_timeout(valkey: ValkeyServer) -> None:
    gaps: list[None] = []
    results: list[str] = []
    is_over = False

    async def client(store: RedisStore) -> None:
        while not is_over:
            try:
                await store.take([Bucket(b"all", Rate(1e6, 1, 1e6))], 1)
                results.append("ok")
            except StoreAway:
                results.append("away")
            await asyncio.sleep(0.001)

    async with opened(settings_for(valkey)) as store, store.subscribe(b"a", lambda _: None, lambda: gaps.append(None)):
        clients = [asyncio.create_task(client(store)) for _ in range(4)]
        await eventually(lambda: len(results) > 20)
        assert set(results) == {"ok"}
        valkey.stop()
        await eventually(lambda: is_away(store) and results[-8:] == ["away"] * 8)
        valkey.start()
        await eventually(lambda: results[-8:] == ["ok"] * 8)
        await eventually(lambda: len(gaps) == 1)
        is_over = True
        await asyncio.gather(*clients)


@pytest.mark.both_loops
async def test_a_frozen_server_is_away_after_the_timeout_and_at_once_afterwards(valkey: ValkeyServer) -> None:
    async with opened(settings_for(valkey, timeout_s=0.05)) as store:
        await is_back(store)
        valkey.freeze()
        started = time.monotonic()
        found = await asyncio.gather(*(store.get(b"a") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, StoreAway) for each in found)
        assert 0.04 < time.monotonic() - started < 1
        # The second connection may have been opened just before the server froze.
        with pytest.raises(StoreAway):
            await store.get(b"a")
        assert list(store.notes()) == ["the shared store is away: it did not answer in time"]
        started = time.monotonic()
        for _ in range(1000):
            with pytest.raises(StoreAway):
                await store.get(b"a")
        assert time.monotonic() - started < 0.5
        valkey.thaw()
        await is_back(store)
        await eventually_ok(store)


async def eventually_ok(store: RedisStore) -> None:
    """Until an operation succeeds: on a busy machine one may be late again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await store.put(b"a", b"1", 60)
            except StoreAway:
                await asyncio.sleep(0.01)
            else:
                return


async def test_subscribers_of_a_frozen_server_are_told_of_the_gap(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.store.listener._PING_EVERY_S", 0.02)
    monkeypatch.setattr("anabranch.store.listener.OPEN_TIMEOUT_S", 0.1)
    heard: list[bytes] = []
    async with (
        opened(settings_for(valkey)) as store,
        store.subscribe(b"a", heard.append, lambda: heard.append(b"gap")),
    ):
        valkey.freeze()
        await eventually(lambda: store._listener._link is None)
        valkey.thaw()
        await eventually(lambda: heard == [b"gap"])
        await eventually_ok(store)
        await store.publish(b"a", b"again")
        await eventually(lambda: heard == [b"gap", b"again"])


async def test_a_flushed_server_has_forgotten_entries_and_scripts_and_nobody_notices(valkey: ValkeyServer) -> None:
    bucket = Bucket(b"all", Rate(1, 3600, 1))
    async with opened(settings_for(valkey)) as store:
        await store.put(b"a", b"1", 60)
        token = await store.lease(b"l", 60)
        assert token is not None
        assert (await store.take([bucket], 1))[0].is_allowed
        assert not (await store.take([bucket], 1))[0].is_allowed
        valkey.flush()
        assert (await store.take([bucket], 1))[0].is_allowed
        assert await store.get(b"a") is None
        await store.release(b"l", token)
        assert not is_away(store)


@pytest.mark.both_loops
async def test_a_cancelled_operation_does_not_leave_its_reply_to_the_next_one(valkey: ValkeyServer) -> None:
    # CVE-2023-28858 and CVE-2023-28859 of redis-py.
    settings = msgspec.structs.replace(settings_for(valkey), connections=1)
    async with opened(settings) as store:
        for index in range(20):
            await store.put(b"%d" % index, b"value %d" % index, 60)

        async def read(index: int) -> bytes | None:
            return await store.get(b"%d" % index)

        for turn in range(50):
            tasks = [asyncio.create_task(read(index)) for index in range(20)]
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            for task in tasks[turn % 3 :: 3]:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for index, each in enumerate(found):
                assert isinstance(each, asyncio.CancelledError) or each == b"value %d" % index
        assert len(valkey_connections(valkey, settings)) == 1


def valkey_connections(server: ValkeyServer, settings: RedisSettings) -> list[bytes]:
    """The gateway's connections on which commands with keys were sent."""
    listed: bytes = server.call("CLIENT", "LIST")
    return [line for line in listed.splitlines() if b"name=anabranch" in line and b"cmd=get" in line]


async def test_samples_count_operations_by_their_result(valkey: ValkeyServer) -> None:
    async with opened(settings_for(valkey)) as store:
        await store.get(b"a")
        valkey.stop()
        await eventually(lambda: is_away(store))
        with pytest.raises(StoreAway):
            await store.get(b"a")
        found = {(sample.metric.name, *sample.labels): sample.value for sample in store.samples()}
    assert found["anabranch_store_operations", "get", "ok"] == 1
    assert found["anabranch_store_operations", "get", "away"] == 1
    assert found["anabranch_store_seconds", "get"] > 0
    assert found["anabranch_store_away",] == 1


async def test_a_wrong_password_and_a_missing_permission_are_named_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer("--requirepass", "right-secret", "--user", "reader", "on", ">pw", "~*", "+@read", "+@connection") as server:
        base = settings_for(server)
        for login, trouble in (
            (Login(), "it requires a password"),
            (Login(None, "wrong-secret"), "it does not accept the username and password"),
            (Login("reader", "pw"), "its user may not do what the gateway needs"),
        ):
            async with opened(msgspec.structs.replace(base, login=login)) as store:
                assert list(store.notes()) == [f"the shared store is away: {trouble}"]
        async with opened(msgspec.structs.replace(base, login=Login(None, "right-secret"))) as store:
            assert not is_away(store)
    assert "secret" not in caplog.text.replace("secretly", "")
    assert str(server.port) not in caplog.text


async def test_an_operation_that_the_acl_forbids_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    options = ("--user", "most", "on", ">pw", "~*", "resetchannels", "+@all", "-publish")
    with caplog.at_level(logging.WARNING), ValkeyServer(*options) as server:
        async with opened(msgspec.structs.replace(settings_for(server), login=Login("most", "pw"))) as store:
            for _ in range(3):
                with pytest.raises(StoreAway):
                    await store.publish(b"a", b"1")
            for _ in range(2):
                async with store.subscribe(b"a", lambda _: None, lambda: None):
                    assert await store.get(b"a") is None
            assert not is_away(store)
    assert caplog.text.count("the shared store refuses the operation publish: NOPERM") == 1
    assert caplog.text.count("the shared store refuses the operation subscribe: NOPERM") == 1


async def test_the_user_of_the_page_may_do_all_that_is_needed() -> None:
    (rule,) = re.findall(r"^user gateway .*$", (ROOT / "docs" / "store.md").read_text("utf-8"), re.MULTILINE)
    name, *rules = rule.replace("PASSWORD", "pw").split()[1:]
    with ValkeyServer("--user", name, *rules) as server:
        settings = msgspec.structs.replace(settings_for(server), prefix=b"shop:", login=Login("gateway", "pw"))
        heard: list[bytes] = []
        async with opened(settings) as store, store.subscribe(b"a", heard.append, lambda: heard.append(b"gap")):
            assert list(store.notes()) == []
            await store.put(b"a", b"1", 60)
            assert await store.get(b"a") == b"1"
            assert await store.discard(b"a") == 1
            server.call("SCRIPT", "FLUSH")
            assert (await store.take([Bucket(b"a", Rate(1, 60, 1))], 1))[0].is_allowed
            token = await store.lease(b"a", 60)
            assert token is not None
            await store.release(b"a", token)
            await store.publish(b"a", b"heard")
            await eventually(lambda: heard == [b"heard"])
