"""The proxy of the chaos tests must implement its conditions: on both loops, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest

from anabranch.testing.serving import LOOPBACK, free_socket
from tests.support.eventually import eventually
from tests.support.tcp_proxy import CLEAR, Conditions, TCPProxy

# A window in which nothing may arrive; nothing is in transit that could arrive later.
SOON_S = 0.15


pytestmark = pytest.mark.both_loops


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TCPProxy]:
    server = await asyncio.start_server(_echo, LOOPBACK, 0)
    async with TCPProxy(server.sockets[0].getsockname()[1]) as made:
        yield made
    server.close()
    await server.wait_closed()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def rest(self) -> bytes:
        return await self.reader.read(-1)

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SOON_S):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def caller_of(proxy: TCPProxy) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_bytes_pass_in_both_directions_and_connections_are_counted(proxy: TCPProxy) -> None:
    async with caller_of(proxy) as one, caller_of(proxy) as two:
        for caller in (one, two):
            assert await caller.echo(b"x" * 300_000) == b"x" * 300_000
        assert (proxy.accepted, proxy.open) == (2, 2)
    await eventually(lambda: proxy.open == 0)


async def test_latency_delays_bytes_from_the_upstream_and_keeps_their_order(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(latency_s=0.05, jitter_s=0.02))
    async with caller_of(proxy) as caller:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(10):
            caller.writer.write(b"%d" % number)
            await asyncio.sleep(0.001)
        assert await caller.reader.readexactly(10) == b"0123456789"
        assert loop.time() - began >= 0.05


async def test_bandwidth_is_limited(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(bytes_per_s=100_000))
    async with caller_of(proxy) as caller:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await caller.echo(b"x" * 20_000) == b"x" * 20_000
        assert loop.time() - began >= 0.18


@pytest.mark.parametrize("after", [0, 1, 1000])
async def test_connection_is_cut_after_the_given_bytes_counted_from_the_change(proxy: TCPProxy, after: int) -> None:
    async with caller_of(proxy) as caller:
        assert await caller.echo(b"before") == b"before"
        await proxy.become(Conditions(cut_after=after))
        caller.writer.write(b"x" * 5000)
        assert await caller.rest() == b"x" * after


async def test_cut_connection_may_be_reset(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(cut_after=10, cut_by="reset"))
    async with caller_of(proxy) as caller:
        caller.writer.write(b"x" * 5000)
        with pytest.raises(ConnectionResetError):
            await caller.rest()


async def test_new_connection_is_reset_at_once(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(accept="reset"))
    for _ in range(3):
        with pytest.raises(ConnectionResetError):  # while it reads, or as soon as it is connected
            async with caller_of(proxy) as caller:
                await caller.rest()
    assert proxy.accepted == 3


async def test_black_hole_holds_all_bytes_and_delivers_them_afterwards(proxy: TCPProxy) -> None:
    async with caller_of(proxy) as old, caller_of(proxy) as new:
        await old.echo(b"a")
        await proxy.become(Conditions(is_black_hole=True))
        for caller in (old, new):
            caller.writer.write(b"held")
            assert await caller.hears_nothing()
        await proxy.become(CLEAR)
        for caller in (old, new):
            assert await caller.reader.readexactly(4) == b"held"


async def test_caller_that_leaves_during_a_black_hole_is_discarded(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(is_black_hole=True))
    async with caller_of(proxy) as caller:
        caller.writer.write(b"held")
        await eventually(lambda: proxy.open == 1)
    await eventually(lambda: proxy.open == 0)


async def test_swallowed_connection_is_accepted_and_never_answered(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(accept="swallow"))
    async with caller_of(proxy) as caller:
        caller.writer.write(b"gone")
        assert await caller.hears_nothing()
    assert proxy.accepted == 1


async def test_ignored_connection_is_neither_accepted_nor_refused(proxy: TCPProxy) -> None:
    await proxy.become(Conditions(accept="ignore"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S), caller_of(proxy):
                pass
    assert proxy.accepted == 0


async def test_refusal_can_come_and_go_on_the_same_port(proxy: TCPProxy) -> None:
    for _ in range(3):
        await proxy.become(Conditions(accept="refuse"))
        for _ in range(10):
            with pytest.raises(ConnectionRefusedError):
                async with caller_of(proxy):
                    pass
        await proxy.become(CLEAR)
        async with caller_of(proxy) as caller:
            assert await caller.echo(b"back") == b"back"


async def test_refusal_leaves_open_connections_alone_until_they_are_dropped(proxy: TCPProxy) -> None:
    async with caller_of(proxy) as caller:
        assert await caller.echo(b"before") == b"before"
        await proxy.become(Conditions(accept="refuse"))
        assert await caller.echo(b"still here") == b"still here"
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            await caller.rest()


async def test_new_connections_go_to_the_new_target(proxy: TCPProxy) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with caller_of(proxy) as old:
        assert await old.echo(b"before") == b"before"
        other = await asyncio.start_server(greet, LOOPBACK, 0)
        proxy.target = other.sockets[0].getsockname()[1]
        async with caller_of(proxy) as new:
            assert await new.rest() == b"hello"
        assert await old.echo(b"old") == b"old"
    other.close()
    await other.wait_closed()


async def test_target_that_is_down_resets_the_caller(proxy: TCPProxy) -> None:
    with closing(free_socket()) as nobody:  # reserves the port; never listens
        async with TCPProxy(nobody.getsockname()[1]) as nowhere:
            with pytest.raises(ConnectionResetError):
                async with caller_of(nowhere) as caller:
                    await caller.rest()
