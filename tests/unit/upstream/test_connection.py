"""One connection fed byte by byte, without a socket: where messages end, when it can be reused, and the effect of each callback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from anabranch.core.exchange import Answer, BodySource
from anabranch.errors import ConnectionLost, ProtocolError, ResponseTooLarge, UpstreamError, UpstreamTimeout
from anabranch.upstream.connection import PIECE, Connection


class Wire:
    """A transport that records written bytes and is controlled by the test."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False
        self.buffered = 0
        self.protocol: Connection | None = None
        self.pause_after: int | None = None

    def write(self, data: bytes) -> None:
        self.written += bytes(data)
        if self.pause_after is not None and len(self.written) >= self.pause_after and self.protocol is not None:
            self.protocol.pause_writing()

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Owner:
    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, connection: Connection) -> None:
        self.told.append("opened")

    def released(self, connection: Connection) -> None:
        self.told.append("released")

    def closed(self, connection: Connection) -> None:
        self.told.append("closed")

    def gone(self, connection: Connection) -> None:
        self.told.append("gone")


class Bench:
    """A connection on a fake transport."""

    def __init__(self, max_response: int = 1000) -> None:
        self.owner = Owner()
        self.wire = Wire()
        self.connection = Connection(self.owner, max_response=max_response, expires_at=1e9)
        self.wire.protocol = self.connection
        self.connection.connection_made(cast("Any", self.wire))

    def ask(self, *, body: bytes | BodySource | None = None, is_head: bool = False) -> "asyncio.Future[Answer]":
        deadline = asyncio.get_running_loop().time() + 60
        return self.connection.send(b"GET / HTTP/1.1\r\n\r\n", body, is_head=is_head, deadline=deadline)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.connection.abort()


ANSWERS = {
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello": (200, b"hello", True),
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": (200, b"", True),
    b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n": (200, b"", True),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\nt: v\r\n\r\n": (200, b"hello!", True),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n": (200, b"", True),
    b"HTTP/1.1 204 No Content\r\n\r\n": (204, b"", True),
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n": (304, b"", True),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 201 C\r\ncontent-length: 1\r\n\r\nx": (201, b"x", True),
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx": (200, b"x", False),
    b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx": (200, b"x", False),
    b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx": (200, b"x", False),
}


@pytest.mark.parametrize("raw", ANSWERS)
async def test_answer_is_the_same_wherever_it_is_split(raw: bytes) -> None:
    status, body, is_reusable = ANSWERS[raw]
    cuts = [[raw[:at], raw[at:]] for at in range(1, len(raw))] + [[raw], [bytes([byte]) for byte in raw]]
    for pieces in cuts:
        bench = Bench()
        future = bench.ask()
        bench.feed(*[piece for piece in pieces if piece])
        answer = future.result()
        assert (answer.status, answer.body, bench.connection.is_open) == (status, body, is_reusable), pieces
        assert bench.wire.is_aborted is not is_reusable
        bench.connection.abort()


@pytest.mark.parametrize("raw", [raw for raw, (_, _, is_reusable) in ANSWERS.items() if is_reusable])
@pytest.mark.parametrize("extra", [b"x", b"\r\n", b"\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
async def test_bytes_after_an_answer_close_the_connection(raw: bytes, extra: bytes) -> None:
    for pieces in ([raw + extra], [raw, extra], [raw[:-1], raw[-1:] + extra]):
        bench = Bench()
        future = bench.ask()
        bench.feed(*pieces)
        assert future.result().body == ANSWERS[raw][1]
        assert not bench.connection.is_open
        assert bench.wire.is_aborted


async def test_body_delimited_by_close_is_complete_at_the_close(bench: Bench) -> None:
    future = bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\n\r\nab", b"cd")
    assert not future.done()
    bench.connection.eof_received()
    assert future.result().body == b"abcd"
    assert not bench.connection.is_open


async def test_body_delimited_by_close_is_lost_by_a_reset(bench: Bench) -> None:
    future = bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\n\r\nab")
    bench.connection.connection_lost(ConnectionResetError())
    with pytest.raises(ConnectionLost):
        future.result()


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na"])
async def test_end_before_the_answer_is_complete_is_a_lost_connection(bench: Bench, cut: bytes) -> None:
    future = bench.ask()
    if cut:
        bench.feed(cut)
    assert bench.connection.is_silent is (cut == b"")
    bench.connection.eof_received()
    with pytest.raises(ConnectionLost):
        future.result()
    assert not bench.connection.is_open


async def test_answer_to_head_has_no_body_and_the_connection_is_kept(bench: Bench) -> None:
    for _ in range(2):
        future = bench.ask(is_head=True)
        bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n")
        assert future.result().body == b""
        future = bench.ask()
        bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
        assert future.result().body == b"x"
    assert bench.connection.is_open


async def test_answer_to_head_with_a_body_closes_the_connection(bench: Bench) -> None:
    future = bench.ask(is_head=True)
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
    assert future.result().body == b""
    assert not bench.connection.is_open


async def test_size_limit_applies_to_received_bytes_and_the_declared_length() -> None:
    for raw in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n12345678901\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n12345678901",
    ):
        bench = Bench(max_response=10)
        future = bench.ask()
        bench.feed(raw)
        with pytest.raises(ResponseTooLarge):
            future.result()
        assert bench.wire.is_aborted


async def test_failed_exchange_notifies_the_owner_once(bench: Bench) -> None:
    future = bench.ask()
    bench.feed(b"nonsense")
    bench.connection.abort()
    bench.connection.connection_lost(None)
    with pytest.raises(ProtocolError):
        future.result()
    assert bench.owner.told == ["opened", "closed", "gone"]


async def test_deadline_closes_the_connection() -> None:
    bench = Bench()
    future = bench.connection.send(b"", None, is_head=False, deadline=asyncio.get_running_loop().time())
    with pytest.raises(UpstreamTimeout) as caught:
        await future
    assert caught.value.may_be_processed
    assert bench.wire.is_aborted


async def test_bytes_while_idle_close_the_connection(bench: Bench) -> None:
    bench.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not bench.connection.is_open


async def test_bytes_for_a_cancelled_exchange_close_the_connection(bench: Bench) -> None:
    bench.ask().cancel()
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert not bench.connection.is_open


async def test_large_body_waits_for_buffer_space_and_continues(bench: Bench) -> None:
    bench.wire.pause_after = 150_000
    body = b"x" * 500_000
    future = bench.ask(body=body)
    assert 150_000 <= len(bench.wire.written) < 300_000
    bench.wire.pause_after = None
    bench.connection.resume_writing()
    assert bench.wire.written.endswith(body)
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert future.result().status == 200
    assert bench.connection.is_open


@pytest.mark.parametrize("size", [10, 500_000])
async def test_answer_before_the_body_was_sent_closes_the_connection(bench: Bench, size: int) -> None:
    bench.wire.pause_after = 0
    bench.wire.buffered = 1
    future = bench.ask(body=b"x" * size)
    bench.feed(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    assert future.result().status == 413
    assert not bench.connection.is_open


async def test_small_body_is_sent_with_the_head_in_one_write(bench: Bench) -> None:
    bench.ask(body=b"body")
    assert bench.wire.written == b"GET / HTTP/1.1\r\n\r\nbody"


async def test_fields_are_lower_case_trimmed_and_trailers_dropped(bench: Bench) -> None:
    future = bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\nX-A:  1 \r\nX-Empty:\r\nX-A: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\nX-T: 3\r\n\r\n")
    assert future.result().headers == [(b"x-a", b"1"), (b"x-empty", b""), (b"x-a", b"2"), (b"transfer-encoding", b"chunked")]


async def test_interim_answers_are_skipped(bench: Bench) -> None:
    future = bench.ask()
    bench.feed(b"HTTP/1.1 103 Early\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
    assert future.result() == Answer(200, [(b"content-length", b"1")], b"x")
    assert bench.connection.coding == b""
    assert bench.connection.is_open


async def test_loss_while_idle_is_kept_as_the_reason(bench: Bench) -> None:
    bench.connection.connection_lost(None)
    assert isinstance(bench.connection.failure, UpstreamError)
    assert not bench.connection.failure.may_be_processed


class Pieces:
    """A body that is not in memory. `reads`: what was read. With `fault`, reading raises it."""

    def __init__(self, size: int, fault: Exception | None = None) -> None:
        self.size = size
        self.fault = fault
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, size: int) -> bytes:
        self.reads.append((start, size))
        if self.fault is not None:
            raise self.fault
        return b"x" * min(size, self.size - start)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_body_that_is_not_in_memory_is_read_only_as_fast_as_it_is_written() -> None:
    bench = Bench()
    source = Pieces(3 * PIECE + 5)
    bench.wire.pause_after = PIECE
    answer = bench.ask(body=source)
    await until(lambda: len(bench.wire.written) > PIECE)
    await asyncio.sleep(0)
    assert source.reads == [(0, PIECE)]
    bench.wire.pause_after = None
    bench.connection.resume_writing()
    await until(lambda: len(bench.wire.written) == len(b"GET / HTTP/1.1\r\n\r\n") + len(source))
    assert [start for start, _ in source.reads] == [0, PIECE, 2 * PIECE, 3 * PIECE]
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert (await answer).status == 200
    assert bench.connection.is_open


async def test_an_answer_before_the_whole_body_closes_the_connection() -> None:
    bench = Bench()
    source = Pieces(3 * PIECE)
    bench.wire.pause_after = PIECE
    answer = bench.ask(body=source)
    await until(lambda: len(bench.wire.written) > PIECE)
    bench.feed(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    assert (await answer).status == 413
    assert not bench.connection.is_open
    bench.connection.resume_writing()
    assert source.reads == [(0, PIECE)]


async def test_a_body_that_cannot_be_read_fails_the_exchange() -> None:
    bench = Bench()
    with pytest.raises(ConnectionLost, match="could not read the upload"):
        await bench.ask(body=Pieces(10, OSError("the disk")))
    assert bench.wire.is_aborted


async def test_a_piece_that_was_read_for_a_cancelled_exchange_is_not_written() -> None:
    bench = Bench()
    source = Pieces(10)
    bench.ask(body=source)
    bench.connection.abort()
    written = bench.wire.written
    await until(lambda: bool(source.reads) and not bench.connection._is_reading)
    assert bench.wire.written == written
