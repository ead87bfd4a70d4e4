"""Malformed requests are rejected with a problem document: in order, once, and so that the client can read it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from anabranch.errors import (
    ExpectationFailed,
    HeadTimeout,
    HeadTooLarge,
    MalformedRequest,
    NotImplementedRequest,
    RefusedRequest,
    TargetTooLong,
    VersionNotSupported,
)
from tests.support.eventually import eventually
from tests.support.head_server import PATIENCE_S, Hasty, HeadServer, answer, problem_of, rest, serving

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
GATED = b"GET /gated HTTP/1.1\r\nHost: here\r\n\r\n"
GARBAGE = b"secret-garbage\r\n\r\n"
CHUNKED = b"HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_CHUNK = b"secret-garbage\r\n"


@pytest.fixture
async def server() -> AsyncIterator[HeadServer]:
    async with serving() as found:
        yield found


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (GARBAGE, "the request line must be a method, a target and HTTP/1.1"),
        (GET + b"secret garbage\r\n\r\n", "a field has no colon"),
        (GET + b"X: secret\x00garbage\r\n\r\n", "control character"),
        (b"GET /secret\x80garbage HTTP/1.1\r\n\r\n", "must be percent-encoded"),
        (b"GET /secret garbage HTTP/1.1\r\n\r\n", "one space between them"),
        (b"GET /secret HTTP/1.1\r\n\r\n", "the Host field is missing"),
        (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length field is repeated"),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "exclude each other"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
    ],
)
async def test_malformed_http_gets_a_problem_that_names_the_fault(
    server: HeadServer, sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.connected() as (reader, writer):
        writer.write(sent)
        raw = await rest(reader)
        client = writer.get_extra_info("sockname")
    status, headers, problem = problem_of(raw)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert "date" in headers
    assert (problem["type"], problem["title"], problem["status"]) == ("/problems/malformed_request", MalformedRequest.title, 400)
    assert reason in problem["detail"]
    assert problem["instance"] == headers["x-request-id"]
    assert b"secret" not in raw
    (refusal,) = server.refusals
    assert (refusal.code, refusal.status, refusal.client) == ("malformed_request", 400, client)
    assert (refusal.detail, refusal.request_id) == (problem["detail"], problem["instance"])
    assert (server.app.seen, caplog.records) == ([], [])


@pytest.mark.parametrize(
    ("sent", "kind", "hint"),
    [
        (b"GET /" + b"secret" * 300, TargetTooLong, "more than 1000 bytes"),
        (GET + b"Expect: secret\r\n\r\n", ExpectationFailed, "100-continue"),
        (b"CONNECT secret:443 HTTP/1.1\r\nHost: secret\r\n\r\n", NotImplementedRequest, "no proxy"),
        (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", NotImplementedRequest, "chunked"),
        (b"GET / HTTP/7.1\r\nX: secret\r\n\r\n", VersionNotSupported, "HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VersionNotSupported, "configure the client"),
    ],
)
async def test_what_the_server_does_not_do_is_a_problem_of_its_own(
    server: HeadServer, sent: bytes, kind: type[RefusedRequest], hint: str
) -> None:
    raw = await server.exchange(sent)
    status, headers, problem = problem_of(raw, kind.status)
    assert (status, headers["connection"], problem["type"], problem["title"]) == (
        kind.status,
        "close",
        f"/problems/{kind.code}",
        kind.title,
    )
    assert hint in problem["detail"]
    assert b"secret" not in raw
    assert [refusal.code for refusal in server.refusals] == [kind.code]
    assert server.app.seen == []


async def test_head_too_large_is_a_problem(server: HeadServer) -> None:
    status, headers, problem = problem_of(await server.exchange(GET + b"X: " + b"secret" * 300))
    assert (status, headers["content-type"], headers["connection"]) == (431, "application/problem+json", "close")
    assert (problem["type"], problem["title"]) == ("/problems/head_too_large", HeadTooLarge.title)
    assert "more than 1000 bytes" in problem["detail"]
    assert [refusal.code for refusal in server.refusals] == ["head_too_large"]


async def test_head_too_slow_is_a_problem() -> None:
    async with serving(Hasty) as server:
        status, headers, problem = problem_of(await server.exchange(GET))
        assert (status, headers["content-type"], headers["connection"]) == (408, "application/problem+json", "close")
        assert (problem["type"], problem["title"]) == ("/problems/head_timeout", HeadTimeout.title)
        assert "within 0.2 s" in problem["detail"]
        assert [refusal.code for refusal in server.refusals] == ["head_timeout"]


async def test_client_that_keeps_sending_can_still_read_the_rejection(server: HeadServer) -> None:
    """Closing with unread bytes would reset the connection and lose the answer."""
    async with server.connected() as (reader, writer):
        for _ in range(64):
            writer.write(b"garbage \x00" * 4096)
        assert problem_of(await rest(reader))[0] == 400
    assert len(server.refusals) == 1


async def test_garbage_after_a_request_does_not_disturb_its_response(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(GATED + GARBAGE)
        await server.until_seen("/gated")
        writer.write(GET + b"\r\n")  # nothing after the garbage is parsed as a request
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert problem_of(await rest(reader))[0] == 400
    assert server.app.seen == ["/gated"]


async def test_pending_responses_are_sent_in_order_before_the_rejection(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(GATED + GATED + GET + b"\r\n" + GARBAGE)
        await server.until_seen("/gated")
        server.app.gate.set()
        for _ in range(3):
            assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert problem_of(await rest(reader))[0] == 400
    assert server.app.seen == ["/gated", "/gated", "/"]


async def test_oversized_next_head_does_not_end_the_response_in_flight(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(GATED + GET + b"X: " + b"a" * 2000)
        await server.until_seen("/gated")
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        assert problem_of(await rest(reader))[0] == 431


async def test_nothing_is_sent_after_a_response_that_closes_the_connection(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(GATED + GARBAGE)
        await server.until_seen("/gated")
        server.drain()
        server.app.gate.set()
        raw = await rest(reader)
    assert raw.startswith(b"HTTP/1.1 200")
    assert raw.endswith(b"\r\n\r\n0")


async def test_broken_body_is_answered_with_a_problem(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(b"POST / " + CHUNKED)
        await server.until_seen("/")
        writer.write(BAD_CHUNK)
        raw = await rest(reader)
    assert raw.count(b"\r\n\r\n") == 1
    assert problem_of(raw)[0] == 400
    await eventually(lambda: server.app.gone == ["/"])
    assert [refusal.code for refusal in server.refusals] == ["malformed_request"]


async def test_broken_body_of_a_pipelined_request_is_rejected_in_order(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(GATED + b"POST / " + CHUNKED + BAD_CHUNK + b"and more of that")
        await server.until_seen("/gated")
        server.app.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        raw = await rest(reader)
    assert problem_of(raw)[0] == 400
    assert server.app.seen == ["/gated"]


async def test_broken_body_after_the_response_silently_closes_the_connection(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(b"POST /early " + CHUNKED)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200")
        writer.write(BAD_CHUNK)
        assert await rest(reader) == b""
    assert len(server.refusals) == 1


async def test_broken_body_during_the_response_cuts_it_off(server: HeadServer) -> None:
    async with server.connected() as (reader, writer):
        writer.write(b"POST /amid " + CHUNKED)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"half")
        writer.write(BAD_CHUNK)
        assert await rest(reader) == b""
    assert len(server.refusals) == 1


async def test_upgrade_offer_is_ignored_and_later_requests_work(server: HeadServer, caplog: pytest.LogCaptureFixture) -> None:
    offer = GET + b"Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    raw = await server.exchange(offer + offer + GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
    assert raw.count(b"HTTP/1.1 200") == 4
    assert (server.refusals, caplog.records) == ([], [])
    raw = await server.exchange(offer + GARBAGE)
    assert (raw.count(b"HTTP/1.1 200"), problem_of(raw)[0]) == (1, 400)


async def test_rejected_connection_is_released_when_its_client_disconnects(server: HeadServer) -> None:
    async with server.connected() as (_, writer):
        writer.write(GATED + GARBAGE)
        await server.until_seen("/gated")
    server.app.gate.set()
    assert (await server.exchange(GET + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
