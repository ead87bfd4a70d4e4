"""Where the store is: behind TLS, behind sentinels, on the nodes of a cluster."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trustme

from anabranch.core.rate import Bucket, Rate
from anabranch.store.cluster import slot_of
from anabranch.store.redis import RedisStore
from anabranch.store.seam import StoreAway
from anabranch.store.settings import Login, Place, RedisSettings
from tests.support.eventually import eventually
from tests.support.leaks import no_leaks
from tests.support.ports import free_port
from tests.support.valkey import HOST, SentinelServer, ValkeyCluster, ValkeyServer

PATIENT_S = 2.0


@asynccontextmanager
async def opened(settings: RedisSettings, context: ssl.SSLContext | None = None) -> AsyncIterator[RedisStore]:
    async with no_leaks(), RedisStore(settings, context) as store:
        yield store


def at(*ports: int, prefix: bytes = b"there:") -> RedisSettings:
    return RedisSettings(places=tuple(Place(HOST, port) for port in ports), prefix=prefix, timeout_s=PATIENT_S)


async def eventually_stored(store: RedisStore, key: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.put(key, b"1", 60)
            except StoreAway:
                await asyncio.sleep(0.01)
            else:
                return


# ----------------------------------------------------------------------------------------------------------------- TLS


@asynccontextmanager
async def behind_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a proxy that speaks TLS, and plain TCP to `port`: the wheel's server is built without TLS."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_is_verified_against_the_authority_and_the_name(valkey: ValkeyServer) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("store.example").configure_cert(context)
    trusting, distrusting = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trusting)
    stranger.configure_trust(distrusting)
    not_trusted = ["the shared store is away: its TLS certificate is not trusted, or is for another name"]
    async with behind_tls(valkey.port, context) as port:
        named = msgspec.structs.replace(at(port), server_name="store.example")
        async with opened(named, trusting) as store:
            await store.put(b"a", b"secured", 60)
            assert await store.get(b"a") == b"secured"
        async with opened(at(port), trusting) as store:
            assert list(store.notes()) == not_trusted
        async with opened(named, distrusting) as store:
            assert list(store.notes()) == not_trusted
        async with opened(at(port)) as store:
            assert len(list(store.notes())) == 1
        async with opened(msgspec.structs.replace(at(valkey.port), server_name="store.example"), trusting) as store:
            assert len(list(store.notes())) == 1


# ------------------------------------------------------------------------------------------------------------ sentinels


async def test_the_primary_is_found_by_a_sentinel_that_answers(valkey: ValkeyServer) -> None:
    with SentinelServer(valkey) as sentinel:
        async with opened(msgspec.structs.replace(at(free_port(), sentinel.port), sentinel="main")) as store:
            await store.put(b"a", b"1", 60)
            assert await store.get(b"a") == b"1"
        async with opened(msgspec.structs.replace(at(sentinel.port), sentinel="other")) as store:
            assert list(store.notes()) == [
                "the shared store is away: no sentinel tells where the primary is; the last one says: there is no primary of this name"
            ]
        login = msgspec.structs.replace(at(sentinel.port), sentinel="main", sentinel_login=Login(None, "wrong"))
        async with opened(login) as store:
            assert "secret" not in "".join(store.notes())
            assert len(list(store.notes())) == 1
        sentinel.freeze()
        async with opened(msgspec.structs.replace(at(sentinel.port), sentinel="main")) as store:
            assert list(store.notes()) == ["the shared store is away: no sentinel answers"]
        sentinel.thaw()


async def test_after_a_failover_the_new_primary_is_used(valkey: ValkeyServer) -> None:
    with ValkeyServer() as successor, SentinelServer(valkey) as sentinel:
        heard: list[bytes] = []
        async with (
            opened(msgspec.structs.replace(at(sentinel.port), sentinel="main")) as store,
            store.subscribe(b"a", heard.append, lambda: heard.append(b"gap")),
        ):
            await store.put(b"a", b"1", 60)
            sentinel.call("SENTINEL", "REMOVE", "main")
            sentinel.call("SENTINEL", "MONITOR", "main", HOST, successor.port, 1)
            # The old primary is a replica from now on: it refuses to write, and closes the connections of its clients.
            valkey.call("REPLICAOF", HOST, successor.port)
            try:
                await eventually_stored(store, b"b")
                assert successor.call("GET", b"there:e:b") == b"1"
            finally:
                valkey.call("REPLICAOF", "NO", "ONE")


# -------------------------------------------------------------------------------------------------------------- cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as nodes:
        yield nodes


def of(cluster: ValkeyCluster, prefix: bytes) -> RedisSettings:
    """Only the first node is named. The other one is learned."""
    return msgspec.structs.replace(at(cluster.nodes[0].port, prefix=prefix), is_cluster=True)


def keys_of_both(prefix: bytes) -> tuple[bytes, bytes]:
    """A key in each half of the slots."""
    keys = [b"%d" % number for number in range(100)]
    low = next(key for key in keys if slot_of(prefix + key) < 8192)
    return low, next(key for key in keys if slot_of(prefix + key) >= 8192)


async def test_each_key_is_at_its_node(cluster: ValkeyCluster) -> None:
    async with opened(of(cluster, b"each:")) as store:
        for number in range(20):
            await store.put(b"%d" % number, b"v%d" % number, 60)
        assert [await store.get(b"%d" % number) for number in range(20)] == [b"v%d" % number for number in range(20)]
        assert all(node.call("DBSIZE") > 0 for node in cluster.nodes)
        assert await store.discard(*(b"%d" % number for number in range(25))) == 20
        token = await store.lease(b"l", 60)
        assert token is not None
        assert await store.lease(b"l", 60) is None
        await store.release(b"l", token)
        assert await store.lease(b"l", 60) is not None


async def test_messages_pass_between_the_nodes(cluster: ValkeyCluster) -> None:
    heard: list[bytes] = []
    settings = of(cluster, b"messages:")
    other = msgspec.structs.replace(settings, places=(Place(HOST, cluster.nodes[1].port),))
    async with opened(settings) as one, opened(other) as two, one.subscribe(b"a", heard.append, lambda: None):
        await two.publish(b"a", b"1")
        await one.publish(b"a", b"2")
        await eventually(lambda: sorted(heard) == [b"1", b"2"])


async def test_units_of_buckets_on_several_nodes_are_given_back_when_one_refuses(cluster: ValkeyCluster) -> None:
    low, high = keys_of_both(b"take:c:")
    narrow, wide = Bucket(low, Rate(1, 3600, 1)), Bucket(high, Rate(10, 3600, 10))
    quota = Bucket(b"{%s}q" % high, Rate(10, 86_400, 10, is_quota=True))
    async with opened(of(cluster, b"take:")) as store:
        assert [verdict.remaining for verdict in await store.take([wide, narrow, quota], 1)] == [9, 0, 9]
        assert [verdict.is_allowed for verdict in await store.take([wide, narrow, quota], 1)] == [True, False, True]
        assert [verdict.remaining for verdict in await store.take([wide, quota], 1)] == [8, 8]


async def test_a_key_that_moved_is_found_and_the_new_owner_is_learned(cluster: ValkeyCluster) -> None:
    low, _ = keys_of_both(b"moved:e:")
    slot = slot_of(b"moved:e:" + low)
    async with opened(of(cluster, b"moved:")) as store:
        # While it moves: the old owner sends those who ask for missing keys to the new one.
        cluster.nodes[1].call("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.name(0))
        cluster.nodes[0].call("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.name(1))
        await store.put(low, b"new", 60)
        assert await store.get(low) == b"new"
        for node in reversed(cluster.nodes):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", cluster.name(1))
        assert await store.get(low) == b"new"
        await eventually(lambda: store._servers.link(b"moved:e:" + low) in store._servers._owners[8192]._links)  # type: ignore[union-attr]
        cluster.nodes[1].flush()
        for node in reversed(cluster.nodes):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", cluster.name(0))


async def test_while_one_node_is_away_the_other_one_serves(cluster: ValkeyCluster) -> None:
    low, high = keys_of_both(b"away:e:")
    async with opened(msgspec.structs.replace(of(cluster, b"away:"), timeout_s=0.2)) as store:
        cluster.nodes[1].freeze()
        try:
            # Each connection has to notice it: the second one may have been opened just before.
            for _ in range(2):
                with pytest.raises(StoreAway):
                    await store.get(high)
            assert await store.get(low) is None
            assert list(store.notes()) == ["the shared store is away: it did not answer in time"]
        finally:
            cluster.nodes[1].thaw()
        await eventually_stored(store, high)


async def test_a_server_that_is_no_cluster_or_is_one_unexpectedly_is_named(valkey: ValkeyServer, cluster: ValkeyCluster) -> None:
    async with opened(msgspec.structs.replace(at(valkey.port), is_cluster=True)) as store:
        assert list(store.notes()) == [
            "the shared store is away: no node tells the nodes of the cluster; the last one says: it is not a node of a cluster"
        ]
    names = [msgspec.structs.replace(at(node.port), prefix=b"alone:") for node in cluster.nodes]
    found = []
    for settings in names:
        async with opened(settings) as store:
            found += list(store.notes())
    assert found == ["the shared store is away: it is a node of a cluster, which needs `cluster: true`"]
