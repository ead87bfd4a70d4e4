"""What a server may answer besides what was asked: each is named in readiness and in the log, and nothing hangs or is taken for a reply."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from unittest import mock

import hiredis
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.core.rate import Bucket, Rate
from anabranch.store.redis import RedisStore
from anabranch.store.scripts import TAKE
from anabranch.store.seam import StoreAway
from anabranch.store.settings import Login, Place, RedisSettings
from tests.support.eventually import eventually
from tests.support.leaks import no_leaks
from tests.support.valkey import HOST, ValkeyServer

Answer = Callable[[list[bytes]], bytes | None]
"""The reply to a command; None: the connection is closed."""

ANYBODY = Login()
BUCKET = Bucket(b"all", Rate(10, 60, 10))


def well(command: list[bytes]) -> bytes | None:
    match command[0]:
        case b"GET":
            return b"$-1\r\n"
        case b"EVALSHA":
            return b"*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n"
        case _:
            return b"+OK\r\n"


@asynccontextmanager
async def scripted(answer: Answer, greeting: bytes = b"") -> AsyncIterator[int]:
    """The port of a server that answers by `answer`, after a `greeting` that nobody asked for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader(notEnoughData=...)
        writer.write(greeting)
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not ...:
                    reply = answer(command)
                    if reply is None:
                        return
                    writer.write(reply)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def opened(port: int, timeout_s: float = 2.0, login: Login = ANYBODY, database: int = 0) -> AsyncIterator[RedisStore]:
    one = RedisSettings(places=(Place(HOST, port),), timeout_s=timeout_s, login=login, database=database, connections=1)
    async with no_leaks(), RedisStore(one) as store:
        yield store


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak the protocol of Redis"),
        (None, "it closed the connection"),
        (b"-DENIED Redis is running in protected mode\r\n", "it is in protected mode: it needs a password"),
        (b"-ERR max number of clients reached\r\n", "it has too many clients"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "it is loading its data"),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "it refuses to write because it cannot save its data"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "its memory is full, and its maxmemory-policy evicts nothing"),
        (b"-ERR unknown command 'SET', with args beginning with: 'private'\r\n", "it refuses what the gateway needs"),
        (b"+OK\r\n+OK\r\n", "it sent a reply without a command"),
    ],
)
async def test_what_keeps_a_connection_from_being_used_is_named(
    reply: bytes | None, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(lambda _: reply) as port, opened(port) as store:
        assert list(store.notes()) == [f"the shared store is away: {trouble}"]
        with pytest.raises(StoreAway, match=r"^the shared store is away$"):
            await store.get(b"private")
    assert "private" not in caplog.text
    assert str(port) not in caplog.text


async def test_a_proxy_that_does_not_know_every_command_can_be_used() -> None:
    def answer(command: list[bytes]) -> bytes | None:
        return b"-ERR unknown command 'CLIENT'\r\n" if command[0] == b"CLIENT" else well(command)

    async with scripted(answer) as port, opened(port) as store:
        assert list(store.notes()) == []
        assert await store.get(b"a") is None


@pytest.mark.parametrize(
    "reply",
    [
        b"-READONLY You can't write against a read only replica. script: 6f2a, on @user_script:4.\r\n",
        b"-ERR Error running script (call to f_d3a858ae): @user_script:4: @user_script: 4: -READONLY You can't write against a read only replica.\r\n",
    ],
)
async def test_a_primary_that_became_a_replica_is_left_and_found_again(reply: bytes) -> None:
    # Connections to it stay open when it is demoted: only the reply says so, in Redis 6 within the text of a failed script.
    demoted = [True]
    connections: list[bytes] = []

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"CLIENT":
            connections.append(command[0])
        return reply if command[0] == b"EVALSHA" and demoted else well(command)

    gaps: list[None] = []
    async with scripted(answer) as port, opened(port) as store:
        listening = store.subscribe(b"a", lambda _: None, lambda: gaps.append(None))
        async with listening:
            before = len(connections)
            with pytest.raises(StoreAway):
                await store.take([BUCKET], 1)
            demoted.clear()
            await eventually(lambda: not list(store.notes()))
            assert (await store.take([BUCKET], 1))[0].is_allowed
            await eventually(lambda: len(gaps) == 1)
            assert len(connections) == before + 2, "one for commands, one for messages"


async def test_a_script_that_the_server_has_lost_is_sent_again_in_the_same_operation() -> None:
    sent: list[bytes] = []

    def answer(command: list[bytes]) -> bytes | None:
        sent.append(command[0])
        if command[0] == b"EVALSHA":
            return b"-NOSCRIPT No matching script.\r\n"
        if command[0] == b"EVAL" and command[1] == TAKE.text.encode() and command[2] != b"0":
            return b"*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n"
        return well(command)

    async with scripted(answer) as port, opened(port) as store:
        sent.clear()
        assert (await store.take([BUCKET], 1))[0].remaining == 9
        assert sent == [b"EVALSHA", b"EVAL"]


async def test_a_decision_is_one_round_trip(valkey: ValkeyServer) -> None:
    sent: list[list[bytes]] = []

    def answer(command: list[bytes]) -> bytes | None:
        sent.append(command)
        return well(command)

    async with scripted(answer) as port, opened(port) as store:
        sent.clear()
        await store.take([BUCKET, Bucket(b"b", BUCKET.rate)][:1], 1)
        await store.lease(b"a", 1)
        await store.release(b"a", b"token")
    assert [command[0] for command in sent] == [b"EVALSHA", b"SET", b"EVALSHA"]


async def test_credentials_are_sent_before_everything_else() -> None:
    sent: list[list[bytes]] = []

    def answer(command: list[bytes]) -> bytes | None:
        sent.append(command)
        return well(command)

    async with scripted(answer) as port, opened(port, login=Login("us er", "p:@/ß"), database=3):
        pass
    assert [b"AUTH", b"us er", "p:@/ß".encode()] in sent
    assert sent[0][0] == b"AUTH"
    assert [b"SELECT", b"3"] in sent


async def test_a_server_that_answers_the_check_and_nothing_else_is_tried_less_and_less_often() -> None:
    checks: list[float] = []

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"SET":
            checks.append(time.monotonic())
        return b"" if command[0] == b"GET" else well(command)

    async with scripted(answer) as port, opened(port, timeout_s=0.02) as store:
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            with pytest.raises(StoreAway):
                await store.get(b"a")
            await asyncio.sleep(0.002)
    assert 2 <= len(checks) <= 7


def test_a_busy_event_loop_does_not_make_the_store_late(valkey: ValkeyServer) -> None:
    # The reply is there in time. Only the loop is late: its timer fires before, or together with, the arrival of the reply.
    async def check() -> None:
        async with RedisStore(RedisSettings(places=(Place(HOST, valkey.port),), prefix=b"busy:", timeout_s=0.03)) as store:
            for _ in range(5):
                reading = [asyncio.create_task(store.get(b"a")) for _ in range(3)]
                await asyncio.sleep(0)
                time.sleep(0.06)
                assert await asyncio.gather(*reading) == [None] * 3
            assert list(store.notes()) == []

    asyncio.run(check())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


async def test_an_idle_connection_that_went_dead_is_noticed_before_a_request_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.store.server._PING_EVERY_S", 0.02)
    silent: list[bool] = []

    def answer(command: list[bytes]) -> bytes | None:
        return b"" if command[0] == b"PING" and silent else well(command)

    async with scripted(answer) as port, opened(port, timeout_s=0.1) as store:
        silent.append(True)
        await eventually(lambda: bool(list(store.notes())))
        silent.clear()
        await eventually(lambda: not list(store.notes()))
        assert await store.get(b"a") is None


@settings(max_examples=20)
@given(
    st.lists(
        st.sampled_from(
            [b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n", b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
             b"-ERR x\r\n", b"-MOVED 1 :\r\n", b"-MOVED\r\n", b"-ASK 1 a:b\r\n", b"-NOSCRIPT\r\n", b"-\r\n", b"$5\r\nab", b"%1\r\n", b""]
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["single", "cluster", "sentinel"]),
)  # fmt: skip
def test_whatever_is_replied_an_operation_ends_in_time_and_nothing_breaks(replies: list[bytes], kind: str) -> None:
    async def check() -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        turn = cycle(replies)
        async with scripted(lambda _: next(turn)) as port:
            odd = RedisSettings(
                places=(Place(HOST, port),), timeout_s=0.01, is_cluster=kind == "cluster", sentinel="main" if kind == "sentinel" else None
            )
            store = RedisStore(odd)
            with mock.patch("anabranch.store.redis._START_S", 0.02):
                await store.__aenter__()
            async with store.subscribe(b"a", lambda _: None, lambda: None):
                for operation in (
                    lambda: store.get(b"a"),
                    lambda: store.take([BUCKET], 1),
                    lambda: store.lease(b"a", 1),
                    lambda: store.discard(b"a", b"b"),
                ):
                    try:
                        async with asyncio.timeout(20):
                            await operation()
                    except StoreAway:
                        pass
            list(store.notes())
            await store.__aexit__(None, None, None)
        assert faults == []

    asyncio.run(check())
