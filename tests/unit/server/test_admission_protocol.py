"""At the concurrency limit a request waits as bytes. It is served or rejected as if it had arrived later, without affecting other
requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from anabranch.guard.concurrency import Gate
from anabranch.server.backlog import Backlog
from anabranch.server.http1.connection import BoundedProtocol
from tests.support.head_server import PATIENCE_S, Bounded, Hasty, HeadServer, answer, problem_of, rest, serving

SLOW = b"GET /gated HTTP/1.1\r\nHost: here\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST /post HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def backlog_of(gate: Gate) -> Backlog:
    assert isinstance(gate._backlog, Backlog)
    return gate._backlog


@asynccontextmanager
async def full(
    *,
    waiting: int = 0,
    wait_s: float = 600.0,
    limit: int = 1,
    protocol: type[BoundedProtocol] = Bounded,
    keep_alive_s: float = 600.0,
) -> AsyncIterator[tuple[HeadServer, Gate]]:
    """A server whose slots are all in use by requests that end when `server.app.gate` is set."""
    gate = Gate(limit=limit, waiting=waiting, wait_s=wait_s)
    async with serving(protocol, gate=gate, keep_alive_s=keep_alive_s) as server, server.connected() as (_, writer):
        writer.write(SLOW)
        await until(lambda: gate.is_full)
        await until(lambda: server.app.seen)
        server.app.seen.clear()
        yield server, gate
        server.app.gate.set()
        await until(lambda: not gate.bulkhead.in_use)
        assert (gate.queued, backlog_of(gate).unread_bytes) == (0, 0)


async def test_waiting_requests_stay_unread_and_are_served_in_order() -> None:
    async with full(waiting=3) as (server, gate), server.connected() as (one, to_one), server.connected() as (two, to_two):
        to_one.write(GET)
        await until(lambda: gate.queued == 1)
        to_two.write(GET.replace(b"/a", b"/b"))
        await until(lambda: gate.queued == 2)
        assert server.app.seen == []
        server.app.gate.set()
        assert (await answer(one)).startswith(b"HTTP/1.1 200")
        assert (await answer(two)).startswith(b"HTTP/1.1 200")
        assert (server.app.seen, gate.admitted, gate.shed) == (["/a", "/b"], 2, 0)


async def test_request_that_finds_the_backlog_full_gets_retry_after_and_keeps_its_connection() -> None:
    async with full() as (server, gate), server.connected() as (reader, writer):
        writer.write(GET.replace(b"Host", b"X-Request-Id: mine\r\nHost"))
        status, headers, problem = problem_of(await answer(reader), 503)
        assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "1")
        assert {"date", "content-length"} <= headers.keys()
        assert (problem["type"], problem["status"], problem["instance"]) == ("/problems/overloaded", 503, "mine")
        assert (server.app.seen, gate.shed) == ([], 1)
        server.app.gate.set()
        await until(lambda: not gate.is_full)
        writer.write(GET)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert server.app.seen == ["/a"]


async def test_wait_ends_with_a_rejection() -> None:
    async with full(waiting=1, wait_s=0.05) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        assert b"/problems/overloaded" in await answer(reader)
        assert (server.app.seen, gate.shed) == ([], 1)


async def test_own_pages_are_served_at_the_limit() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET.replace(b"/a", b"/livez"))
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert (server.app.seen, gate.queued, gate.is_full) == (["/livez"], 0, True)


@pytest.mark.parametrize("pieces", [[POST + b"hello"], [POST, b"hello"], [POST[:20], POST[20:], b"he", b"llo"]])
async def test_body_of_a_rejected_request_is_not_parsed_as_a_request(pieces: list[bytes]) -> None:
    async with full() as (server, gate), server.connected() as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        assert b"/problems/overloaded" in await answer(reader)
        server.app.gate.set()
        await until(lambda: not gate.is_full)
        writer.write(GET)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert server.app.seen == ["/a"]


async def test_waiting_request_is_served_with_its_body_whenever_that_arrives() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        body = b"x" * 1_000_000
        writer.write(POST.replace(b": 5", b": %d" % len(body)))
        await until(lambda: gate.queued == 1)
        writer.write(body)
        server.app.gate.set()
        assert (await answer(reader)).endswith(b"\r\n\r\n1000000")


async def test_memory_of_all_waiting_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anabranch.server.backlog._MAX_BYTES", 100_000)
    monkeypatch.setattr("tests.support.head_server.Bounded.max_head_bytes", 64 * 1024)
    monkeypatch.setattr("anabranch.server.backlog.QUICK_PER_S", 0)
    async with full(waiting=9) as (server, gate), server.connected() as (one, to_one), server.connected() as (two, to_two):
        # Each is within the bound when its head arrives; the second exceeds it when its body arrives.
        head, body = POST.replace(b": 5", b": 60000"), b"x" * 60_000
        to_one.write(head + body)
        await until(lambda: backlog_of(gate).unread_bytes == len(head + body))
        to_two.write(head)
        await until(lambda: gate.queued == 2)
        to_two.write(body)
        assert b"/problems/overloaded" in await answer(two)
        to_two.write(GET)
        await until(lambda: gate.queued == 2)
        server.app.gate.set()
        assert (await answer(one)).endswith(b"\r\n\r\n60000")
        assert (await answer(two)).startswith(b"HTTP/1.1 200")
        assert gate.shed == 1


async def test_requests_behind_a_waiting_one_are_answered_in_order() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET + POST + b"hello")
        await until(lambda: gate.queued == 1)
        writer.write(GET)
        server.app.gate.set()
        assert [(await answer(reader))[-1:] for _ in range(3)] == [b"0", b"5", b"0"]


async def test_incomplete_head_takes_no_slot() -> None:
    async with full(waiting=2) as (server, gate), server.connected() as (one, to_one), server.connected() as (two, to_two):
        to_one.write(GET[:10])
        await until(lambda: gate.queued == 1)
        to_two.write(GET)
        await until(lambda: gate.queued == 2)
        server.app.gate.set()
        assert (await answer(two)).startswith(b"HTTP/1.1 200")
        await until(lambda: gate.bulkhead.in_use == 0)
        to_one.write(GET[10:])
        assert (await answer(one)).startswith(b"HTTP/1.1 200")


async def test_garbage_that_waited_is_rejected_and_takes_no_slot() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(b"secret-garbage\r\n\r\n")
        await until(lambda: gate.queued == 1)
        server.app.gate.set()
        assert problem_of(await rest(reader), 400)[0] == 400
        await until(lambda: gate.bulkhead.in_use == 0)


async def test_head_timeout_does_not_run_between_requests_or_while_a_request_waits() -> None:
    async with full(protocol=Hasty) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        assert b"/problems/overloaded" in await answer(reader)
        gate.waiting = 1
        writer.write(GET)
        await until(lambda: gate.queued == 1)
        await asyncio.sleep(2 * Hasty.head_timeout_s)
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_body_of_a_rejected_request_does_not_count_as_a_head() -> None:
    async with full() as (server, gate), server.connected() as (reader, writer):
        writer.write(POST.replace(b": 5", b": 5000") + b"x" * 5000)
        assert b"/problems/overloaded" in await answer(reader)
        server.app.gate.set()
        await until(lambda: not gate.is_full)
        writer.write(GET)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_body_of_a_rejected_request_does_not_keep_the_connection_open() -> None:
    async with full(keep_alive_s=0.5) as (server, _), server.connected() as (reader, writer):
        writer.write(POST)
        assert b"/problems/overloaded" in await answer(reader)
        writer.write(b"h")
        assert await rest(reader) == b""


async def test_pipelined_requests_are_rejected_one_by_one_and_in_order() -> None:
    """Thousands of them, in one piece: none of them may take memory or a stack frame of its own."""
    async with full() as (server, gate), server.connected() as (reader, writer):
        writer.write(GET * 3000)
        for _ in range(3000):
            assert b"/problems/overloaded" in await answer(reader)
        assert (server.app.seen, gate.shed) == ([], 3000)
        server.app.gate.set()
        await until(lambda: not gate.is_full)
        writer.write(GET)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_request_after_a_rejected_one_keeps_its_connection() -> None:
    """The keep-alive timeout does not apply to a request in the backlog."""
    async with full(keep_alive_s=0.3) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        assert b"/problems/overloaded" in await answer(reader)
        gate.waiting = 1
        writer.write(GET)
        await until(lambda: gate.queued == 1)
        await asyncio.sleep(0.6)
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")


async def test_client_that_stops_sending_waits_and_is_answered() -> None:
    """RFC 9112 section 9.6, RFC 9293 section 3.6: shutting down the sending side is no disconnect."""
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        writer.write_eof()
        await until(lambda: gate.queued == 1)
        server.app.gate.set()
        raw = await rest(reader)
        assert raw.startswith(b"HTTP/1.1 200")
        assert raw.count(b"HTTP/1.1 ") == 1


async def test_nothing_is_served_after_a_response_that_closes_the_connection() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        gate.waiting = 0  # no unread requests may wait
        writer.write(POST.replace(b"Host", b"Expect: 100-continue\r\nHost") + b"hello" + GET)
        assert (await rest(reader)).count(b"HTTP/1.1 ") == 1
        server.app.gate.set()
        await until(lambda: gate.bulkhead.in_use == 0)
        assert server.app.seen == []


async def test_rejected_client_that_does_not_read_is_disconnected() -> None:
    async with full() as (server, _), server.connected() as (reader, writer):
        await until(lambda: len(server.connections) == 2)
        next(one for one in server.connections if one.cycle is None).pause_writing()
        writer.write(GET)
        status, headers, _ = problem_of(await rest(reader), 503)
        assert (status, headers["connection"]) == (503, "close")


async def test_line_ends_after_a_rejection_do_not_keep_the_connection_open() -> None:
    async with full(protocol=Hasty) as (server, _), server.connected() as (reader, writer):
        writer.write(GET)
        assert b"/problems/overloaded" in await answer(reader)
        writer.write(b"\r\n")
        assert (await rest(reader)).startswith(b"HTTP/1.1 408")


async def test_disconnected_client_leaves_the_backlog() -> None:
    async with full(waiting=1) as (server, gate):
        async with server.connected() as (_, writer):
            writer.write(GET)
            await until(lambda: gate.queued == 1)
        await until(lambda: gate.queued == 0)
        assert (server.app.seen, gate.shed) == ([], 0)


async def test_answer_to_head_has_no_body() -> None:
    async with full() as (server, _), server.connected() as (reader, writer):
        writer.write(GET.replace(b"GET", b"HEAD") + GET)
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(
    "request_",
    [
        GET.replace(b"1.1", b"1.0"),
        GET.replace(b"Host", b"Connection: close\r\nHost"),
        POST.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    ],
)
async def test_rejection_closes_the_connection_when_it_cannot_be_reused(request_: bytes) -> None:
    async with full() as (server, _), server.connected() as (reader, writer):
        writer.write(request_)
        status, headers, _ = problem_of(await rest(reader), 503)
        assert (status, headers["connection"]) == (503, "close")


async def test_drain_serves_waiting_requests_and_then_closes() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        await until(lambda: gate.queued == 1)
        server.drain()
        server.app.gate.set()
        raw = await rest(reader)
        assert raw.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in raw.lower()


async def test_drain_rejects_a_request_whose_wait_expires_and_then_closes() -> None:
    async with full(waiting=1, wait_s=0.05) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        await until(lambda: gate.queued == 1)
        server.drain()
        status, headers, _ = problem_of(await rest(reader), 503)
        assert (status, headers["connection"]) == (503, "close")


async def test_drain_without_time_rejects_waiting_requests() -> None:
    async with full(waiting=1) as (server, gate), server.connected() as (reader, writer):
        writer.write(GET)
        await until(lambda: gate.queued == 1)
        server.drain()
        server.drain()
        status, headers, _ = problem_of(await rest(reader), 503)
        assert (status, headers["connection"], gate.queued) == (503, "close", 0)
