"""The client of the specs sends what it is told, and notices everything that is not one well-framed answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from anabranch.testing.serving import LOOPBACK
from anabranch.testing.specs.client import FramingError, in_chunks, parse, render, send

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        b"HTTP/1.1 204 No Content\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nx",
        OK + OK,
    ],
)
def test_an_answer_with_wrong_framing_is_noticed(received: bytes) -> None:
    with pytest.raises(FramingError):
        parse(received)


def test_a_body_after_head_is_noticed() -> None:
    with pytest.raises(FramingError):
        parse(OK, is_head=True)


@pytest.mark.parametrize(
    ("received", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + in_chunks(b"abcde", 2), b"abcde"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\ntrailer: 1\r\n\r\n", b"ab"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b""),
    ],
)
def test_an_answer_is_taken_apart(received: bytes, body: bytes) -> None:
    assert parse(received).body == body


def test_what_is_left_out_is_added_and_what_is_empty_is_left_out() -> None:
    assert render("GET", "/x", [], None, port=80) == b"GET /x HTTP/1.1\r\nhost: 127.0.0.1:80\r\nconnection: close\r\n\r\n"
    asked = render("POST", "/x", [("Host", ""), ("connection", "x"), ("a", "1"), ("A", "Zoë")], b"ab", port=80)
    assert asked == b"POST /x HTTP/1.1\r\ncontent-length: 2\r\nconnection: x\r\na: 1\r\nA: Zo\xc3\xab\r\n\r\nab"


@asynccontextmanager
async def server(*answers: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """Answers the requests of a connection one after the other, and closes it behind the last answer or one that says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for answer in answers:
                sent = answer(await reader.readuntil(b"\r\n\r\n"))
                writer.write(sent)
                if b"connection: close" in sent:
                    break
        writer.close()

    listening = await asyncio.start_server(serve, LOOPBACK, 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def always(answer: bytes) -> Callable[[bytes], bytes]:
    return lambda _: answer


def after(head: bytes) -> bytes:
    """The answer of a gateway to the request behind the answer."""
    name = head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]
    return b"HTTP/1.1 404 Not Found\r\nx-request-id: %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % name


ASKED = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def test_an_answer_on_a_connection_that_stays_open_is_taken_without_a_wait() -> None:
    async with server(always(OK), after) as port:
        (answer,) = await send(port, ASKED)
    assert answer.body == b"ok"


async def test_a_server_may_close_without_saying_so() -> None:
    async with server(always(OK)) as port:
        assert (await send(port, ASKED))[0].status == 200


@pytest.mark.parametrize("smuggled", [OK, b"HTTP/1.1 404 Not Found\r\nx-request-id: r\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"])
async def test_a_second_answer_to_one_request_is_noticed(smuggled: bytes) -> None:
    async with server(always(OK + smuggled), after) as port:
        with pytest.raises(FramingError, match="there are more answers than requests"):
            await send(port, ASKED)


async def test_bytes_behind_the_last_answer_are_noticed() -> None:
    async with server(always(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"more")) as port:
        with pytest.raises(FramingError, match="4 bytes after the answer"):
            await send(port, ASKED)


async def test_several_requests_have_several_answers() -> None:
    async with server(always(OK), always(OK.replace(b"ok", b"no")), after) as port:
        assert [answer.body for answer in await send(port, ASKED + ASKED, count=2)] == [b"ok", b"no"]
        with pytest.raises(FramingError):
            await send(port, ASKED + ASKED, count=1)


async def test_a_client_may_end_its_sending_side() -> None:
    async with server(always(OK)) as port:
        assert (await send(port, ASKED, half_close=True))[0].body == b"ok"
