"""When a connection is reused, and when it must not be (RFC 9112 section 9); the same for both transports where both guarantee it."""

import asyncio
from typing import Any

import pytest

from anabranch.errors import ConnectionLost, UpstreamError
from tests.support.rig import Rig

OK = {"json": {"ok": True}}


async def test_connection_is_kept_alive(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": OK})
    for _ in range(20):
        await caller.ask()
    assert upstream.accepted == 1


async def test_concurrent_exchanges_use_separate_connections(rig: Rig) -> None:
    # The first twenty answers are delayed for longer than it takes all twenty requests to arrive.
    upstream, caller = await rig.both({"*": [*[{"delay_s": 0.5, **OK}] * 20, {"delay_s": 0.05, **OK}]})
    await asyncio.gather(*(caller.ask() for _ in range(20)))
    assert upstream.max_concurrent == upstream.accepted == 20
    await asyncio.gather(*(caller.ask() for _ in range(20)))
    assert upstream.accepted == 20


@pytest.mark.parametrize(
    "behaviour",
    [
        {"body": "x", "headers": {"connection": "close"}},
        {"body": "x", "headers": {"connection": "Close, keep-alive"}},
        {"body": "x", "http": "1.0"},
        {"body": "x", "content_length": False},
        {"body": "x", "chunked": True, "headers": {"connection": "close"}},
    ],
)
async def test_connection_closed_by_its_answer_is_not_reused(rig: Rig, behaviour: dict[str, Any]) -> None:
    upstream, caller = await rig.both({"/x": behaviour, "/ok": OK})
    for _ in range(2):
        assert (await caller.ask("/x")).body == b"x"
        assert caller.connections == 0 or not rig.is_wire
    assert upstream.accepted == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        {"body": "x", "after": "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"},
        {"body": "x", "after": "garbage"},
        {"body": "x", "after": "\r\n"},
        {"body": "x", "after": "H"},
        {"body": "x", "chunked": True, "after": "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"},
        {"body": "x", "chunked": True, "after": "\r\n"},
        {"body": "x", "chunked": True, "after": "\x00"},
        {"status": 204, "after": "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"},
        {"body": "x", "content_length": 1, "after": "x" * 100},
    ],
)
async def test_bytes_after_an_answer_never_reach_the_next_exchange(rig: Rig, behaviour: dict[str, Any]) -> None:
    """RFC 9112 section 11.2: an unsolicited answer must not be used as the answer to a later request."""
    upstream, caller = await rig.both({"/x": behaviour, "/ok": OK})
    for _ in range(2):
        assert (await caller.ask("/x")).body in {b"x", b""}
        assert (await caller.ask("/ok")).body == b'{"ok": true}'
    assert upstream.accepted == 3


async def test_body_in_an_answer_to_head_does_not_affect_the_next_exchange(rig: Rig) -> None:
    raw = "HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned12345"
    _, caller = await rig.both({"HEAD /x": {"raw": raw}, "/ok": OK})
    assert (await caller.ask("/x", method="HEAD")).body == b""
    assert (await caller.ask("/ok")).body == b'{"ok": true}'


async def test_bytes_on_an_idle_connection_close_it(wire: Rig) -> None:
    upstream, caller = await wire.both({"/x": OK})
    await caller.ask("/x")
    for connection in upstream._connections:
        assert connection._transport is not None
        connection._transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    await upstream.until(lambda record: record.open == 0)
    assert (await caller.ask("/x")).status == 200
    assert caller.connections == 1


async def test_idle_connection_closed_by_the_peer_fails_no_request(rig: Rig) -> None:
    upstream, caller = await rig.both({"close_after": 1, "routes": {"*": OK}})
    for method in ("GET", "POST", "GET", "POST"):
        assert (await caller.ask(method=method)).status == 200
        await upstream.until(lambda record: record.open == 0)
        await asyncio.sleep(0.01)  # the close is in transit
    assert len(upstream.hits) == 4


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
@pytest.mark.parametrize("fault", [{"reset": "answer"}, {"raw": b""}, {"reset": "request"}])
async def test_idempotent_request_on_a_stale_connection_is_resent_once(rig: Rig, method: str, fault: dict[str, Any]) -> None:
    """RFC 9112 section 9.3.1."""
    upstream, caller = await rig.both({"/first": OK, "/x": [fault, OK]})
    await caller.ask("/first")
    assert (await caller.ask("/x", method=method)).status == 200
    assert (upstream.counts["/x"], upstream.accepted) == (2, 2)


async def test_request_is_not_resent_a_second_time(rig: Rig) -> None:
    upstream, caller = await rig.both({"/first": OK, "/x": {"reset": "answer"}})
    await caller.ask("/first")
    with pytest.raises(ConnectionLost) as caught:
        await caller.ask("/x")
    assert caught.value.may_be_processed
    assert upstream.counts["/x"] == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_other_requests_on_a_stale_connection_fail(rig: Rig, method: str) -> None:
    upstream, caller = await rig.both({"/first": OK, "/x": {"reset": "answer"}})
    await caller.ask("/first")
    with pytest.raises(ConnectionLost) as caught:
        await caller.ask("/x", method=method, body=b"{}")
    assert caught.value.may_be_processed
    assert upstream.counts["/x"] == 1


async def test_request_on_a_fresh_connection_closed_without_an_answer_is_not_resent(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"reset": "answer"}})
    with pytest.raises(ConnectionLost):
        await caller.ask("/x")
    assert upstream.counts["/x"] == 1


async def test_request_is_not_resent_once_its_answer_has_begun(rig: Rig) -> None:
    upstream, caller = await rig.both({"/first": OK, "/x": {"size": 100, "truncate_after": 10}})
    await caller.ask("/first")
    with pytest.raises(ConnectionLost):
        await caller.ask("/x")
    assert upstream.counts["/x"] == 1


async def test_early_answer_is_accepted_and_the_connection_closed(rig: Rig) -> None:
    """RFC 9112 section 9.5: the answer arrived while the request's body was still being sent."""
    upstream, caller = await rig.both({"/x": {"status": 413, "body": "no", "early": True, "close": True}, "/ok": OK})
    answer = await caller.ask("/x", method="POST", body=b"x" * 30_000_000)
    assert (answer.status, answer.body) == (413, b"no")
    assert (await caller.ask("/ok")).status == 200
    assert upstream.accepted == 2


async def test_a_restart_of_the_service_fails_no_idempotent_request(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": OK})
    for _ in range(3):
        await asyncio.gather(*(caller.ask() for _ in range(10)))
        upstream.drop()
        await asyncio.gather(*(caller.ask() for _ in range(10)))


async def test_no_idle_connections_are_kept_when_none_are_allowed(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": OK}, pool={"max_idle": 0})
    for _ in range(3):
        await caller.ask()
    assert upstream.accepted == 3
    await upstream.until(lambda record: record.open == 0)


async def test_idle_connections_beyond_the_limit_are_closed(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": {"delay_s": 0.02, **OK}}, pool={"max_idle": 3})
    await asyncio.gather(*(caller.ask() for _ in range(10)))
    await upstream.until(lambda record: record.open == 3)


async def test_idle_connections_are_closed_without_traffic(wire: Rig) -> None:
    upstream, caller = await wire.both({"*": OK}, pool={"idle_timeout": "50ms"})
    await caller.ask()
    await upstream.until(lambda record: record.open == 0)
    assert caller.connections == 0


async def test_old_connections_are_not_reused(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": OK}, pool={"max_age": "50ms"})
    await caller.ask()
    await asyncio.sleep(0.06)
    await caller.ask()
    assert upstream.accepted == 2


async def test_close_fails_exchanges_in_flight_and_later_ones(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"hang": True}, "/ok": OK})
    await caller.ask("/ok")
    hanging = [asyncio.create_task(caller.ask("/x")) for _ in range(3)]
    await upstream.until(lambda record: len(record.hits) == 4)
    await caller.transport.aclose()
    await caller.transport.aclose()
    for result in await asyncio.gather(*hanging, return_exceptions=True):
        assert isinstance(result, ConnectionLost)
        assert result.may_be_processed
    with pytest.raises(UpstreamError) as caught:
        await caller.ask("/ok")
    assert not caught.value.may_be_processed
    await upstream.until(lambda record: record.open == 0)


# ------------------------------------------------------------------------------------------------------- Keep-Alive


@pytest.mark.parametrize(("said", "kept"), [("timeout=1", False), ("timeout=1, max=50", False), ("timeout=30", True), ("max=2", True)])
async def test_connection_is_not_used_longer_than_its_service_says(rig: Rig, said: str, kept: bool) -> None:
    """RFC 2068 section 19.7.1.1. A POST that meets the close of its service would fail."""
    upstream, caller = await rig.both({"*": {"headers": {"keep-alive": said}, **OK}})
    await caller.ask(method="POST")
    await asyncio.sleep(0.8)
    await caller.ask(method="POST")
    assert upstream.accepted == (1 if kept else 2)


async def test_connection_carries_no_more_requests_than_its_service_says(rig: Rig) -> None:
    upstream, caller = await rig.both({"/first": {"headers": {"keep-alive": "timeout=60, max=2"}, **OK}, "/ok": OK})
    await caller.ask("/first")
    for _ in range(2):
        await caller.ask("/ok")
    assert upstream.accepted == 1
    await caller.ask("/ok")
    assert upstream.accepted == 2
