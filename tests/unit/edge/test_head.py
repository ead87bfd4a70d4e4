"""Heads of requests have a size and a time, and requests that keep to them notice nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.edge.head import BoundedProtocol


class Hasty(BoundedProtocol):
    max_head_bytes = 1000
    head_timeout_s = 0.2


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body; /slow after half a second."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


@asynccontextmanager
async def serving(protocol: type[BoundedProtocol], *, keep_alive_s: int = 5) -> AsyncIterator[int]:
    config = uvicorn.Config(echo, port=0, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await server.shutdown()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(Hasty) as found:
        yield found


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send the pieces, and return everything until the other side closes, or nothing comes for two seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        answer = b""
        try:
            async with asyncio.timeout(2.0):
                while data := await reader.read(65536):
                    answer += data
        except (TimeoutError, ConnectionResetError):
            answer += b" and stays"
        return answer
    finally:
        writer.close()


END = b"Connection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def test_a_usual_request_is_answered(port: int) -> None:
    assert (await exchange(port, GET + END)).startswith(b"HTTP/1.1 200")


async def test_a_head_may_come_in_pieces(port: int) -> None:
    assert (await exchange(port, GET, END, pause_s=0.05)).startswith(b"HTTP/1.1 200")


async def test_a_head_without_end_is_refused_before_it_fills_the_memory(port: int) -> None:
    field = b"X: " + b"a" * 500 + b"\r\n"
    answer = await exchange(port, GET, field, field, pause_s=0.01)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert answer.count(b"HTTP/1.1") == 1


async def test_one_endless_field_is_refused(port: int) -> None:
    assert (await exchange(port, GET + b"X: " + b"a" * 2000)).startswith(b"HTTP/1.1 431")


async def test_an_endless_target_is_refused(port: int) -> None:
    assert (await exchange(port, b"GET /" + b"a" * 2000)).startswith(b"HTTP/1.1 431")


async def test_a_head_that_is_never_ended_is_refused_in_time(port: int) -> None:
    assert (await exchange(port, GET)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_dripping_bytes_gain_no_time(port: int) -> None:
    begin = asyncio.get_running_loop().time()
    await exchange(port, *[b"G", b"E", b"T"], pause_s=0.05)
    assert asyncio.get_running_loop().time() - begin < 1.5


async def test_line_ends_alone_are_no_way_to_stay(port: int) -> None:
    assert (await exchange(port, b"\r\n")).startswith(b"HTTP/1.1 408")
    answer = await exchange(port, GET + b"\r\n", b"\r\n", pause_s=0.05)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 408") == 1


async def test_time_and_size_begin_anew_with_each_request(port: int) -> None:
    request = GET + b"X: " + b"a" * 600 + b"\r\n\r\n"
    answer = await exchange(port, request, request, request, GET + END, pause_s=0.15)
    assert answer.count(b"HTTP/1.1 200") == 4


async def test_bodies_and_answers_may_take_longer_and_be_larger(port: int) -> None:
    post = b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 4000\r\n"
    answer = await exchange(port, post + END, b"a" * 2000, b"a" * 2000, pause_s=0.3)
    assert answer.endswith(b"\r\n\r\n4000")


async def test_the_head_of_a_next_request_does_not_end_the_answer_to_this_one(port: int) -> None:
    answer = await exchange(port, b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n" + GET)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 408") == 1


async def test_a_connection_without_bytes_is_closed_after_the_keep_alive_timeout() -> None:
    async with serving(Hasty, keep_alive_s=0) as port:
        assert await exchange(port) == b""


async def test_nothing_is_left_when_a_client_goes_away(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HT")
    await writer.drain()
    writer.close()
    assert (await exchange(port, GET + END)).startswith(b"HTTP/1.1 200")
