"""Request heads have a size limit and a time limit, and requests within them are unaffected."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.head_server import Hasty, HeadServer, answer, rest, serving

END = b"Connection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
FIELD = b"X: " + b"a" * 600 + b"\r\n"


@pytest.fixture
async def bounded() -> AsyncIterator[HeadServer]:
    async with serving() as found:
        yield found


@pytest.fixture
async def hasty() -> AsyncIterator[HeadServer]:
    async with serving(Hasty) as found:
        yield found


async def test_an_ordinary_request_is_answered(hasty: HeadServer) -> None:
    assert (await hasty.exchange(GET + END)).startswith(b"HTTP/1.1 200")
    assert hasty.refusals == []


async def test_a_head_may_arrive_in_pieces(bounded: HeadServer) -> None:
    assert (await bounded.exchange(GET, END, pause_s=0.05)).startswith(b"HTTP/1.1 200")


async def test_an_endless_head_is_rejected_before_it_fills_the_memory(bounded: HeadServer) -> None:
    raw = await bounded.exchange(GET, FIELD, FIELD, pause_s=0.01)
    assert raw.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert raw.count(b"HTTP/1.1 ") == 1


async def test_an_endless_field_is_rejected(bounded: HeadServer) -> None:
    assert (await bounded.exchange(GET + b"X: " + b"a" * 2000)).startswith(b"HTTP/1.1 431")


async def test_an_endless_target_is_rejected(bounded: HeadServer) -> None:
    assert (await bounded.exchange(b"GET /" + b"a" * 2000)).startswith(b"HTTP/1.1 414")


async def test_an_unfinished_head_is_rejected_at_the_timeout(hasty: HeadServer) -> None:
    assert (await hasty.exchange(GET)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_slow_bytes_do_not_extend_the_timeout(hasty: HeadServer) -> None:
    """They arrive at short intervals within the time limit of a head, and never end by themselves."""
    async with hasty.connected() as (reader, writer):
        answered = asyncio.ensure_future(answer(reader))
        writer.write(b"GET /")
        while not answered.done():
            writer.write(b"a")
            await asyncio.sleep(0.02)
        assert (await answered).startswith(b"HTTP/1.1 408")


async def test_empty_lines_do_not_keep_a_connection_open(hasty: HeadServer) -> None:
    assert (await hasty.exchange(b"\r\n")).startswith(b"HTTP/1.1 408")
    async with hasty.connected() as (reader, writer):
        writer.write(GET + b"\r\n")
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.write(b"\r\n")
        assert (await rest(reader)).startswith(b"HTTP/1.1 408")


async def test_size_limit_restarts_with_each_request(bounded: HeadServer) -> None:
    request = GET + FIELD + b"\r\n"
    raw = await bounded.exchange(request, request, request, GET + END, pause_s=0.02)
    assert raw.count(b"HTTP/1.1 200") == 4


async def test_a_body_does_not_count_in_the_next_head_in_the_same_piece(bounded: HeadServer) -> None:
    async with bounded.connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2000\r\n\r\n" + b"a" * 2000 + GET)
        assert (await answer(reader)).endswith(b"\r\n\r\n2000")
        writer.write(END)
        assert (await rest(reader)).startswith(b"HTTP/1.1 200")


async def test_a_body_after_its_response_does_not_keep_the_connection_open() -> None:
    async with serving(keep_alive_s=0.5) as server, server.connected() as (reader, writer):
        writer.write(b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n")
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.write(b"hello")
        assert await rest(reader) == b""


async def test_head_timeout_restarts_with_each_request(hasty: HeadServer) -> None:
    """Together the four take longer than the time limit of one head; each arrives in one piece."""
    async with hasty.connected() as (reader, writer):
        for _ in range(4):
            writer.write(GET + b"\r\n")
            assert (await answer(reader)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.1)
    assert hasty.refusals == []


async def test_bodies_and_responses_may_exceed_the_limits_of_heads(hasty: HeadServer) -> None:
    post = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 4000\r\n"
    raw = await hasty.exchange(post + END, b"a" * 2000, b"a" * 2000, pause_s=0.3)
    assert raw.endswith(b"\r\n\r\n4000")


async def test_the_head_of_the_next_request_does_not_end_the_response_in_flight(hasty: HeadServer) -> None:
    async with hasty.connected() as (reader, writer):
        writer.write(b"GET /gated HTTP/1.1\r\nHost: here\r\n\r\n" + GET)
        await asyncio.sleep(0.5)  # longer than the time limit of the next head
        assert hasty.refusals == []  # its time limit starts after the response
        hasty.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert (await rest(reader)).startswith(b"HTTP/1.1 408")


async def test_a_connection_without_bytes_is_closed_after_the_keep_alive_timeout() -> None:
    async with serving(Hasty, keep_alive_s=0) as server:
        assert await server.exchange() == b""
        assert server.refusals == []


async def test_nothing_is_leaked_when_a_client_disconnects(hasty: HeadServer) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(b"GET / HT")
    await writer.drain()
    writer.close()
    assert (await hasty.exchange(GET + END)).startswith(b"HTTP/1.1 200")
