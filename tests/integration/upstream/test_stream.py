"""Responses that are read as they come, by both transports."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from anabranch.core.exchange import Request, StreamRule
from anabranch.errors import ConnectionLost, ProtocolError, ResponseTooLarge, UpstreamError, UpstreamTimeout
from anabranch.upstream.stream import AnswerStream
from tests.support.rig import Caller, Rig

OK = {"json": {"ok": True}}
RULE = StreamRule(idle_timeout_s=10.0)


async def opened(
    caller: Caller, target: str = "/x", rule: StreamRule = RULE, *, within_s: float = 10.0, method: str = "GET"
) -> AnswerStream:
    deadline = asyncio.get_running_loop().time() + within_s
    return await caller.transport.stream(Request(method=method, target=target), caller.address, deadline, rule)


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


@pytest.mark.parametrize("framing", [{}, {"chunked": 10_000}, {"content_length": False}])
async def test_body_of_any_framing_arrives_complete(rig: Rig, framing: dict[str, Any]) -> None:
    """RFC 9112 section 6.3. `max_response` is for whole responses only."""
    _, caller = await rig.both({"/x": {"size": 3_000_000, **framing}, "/ok": OK}, max_response=1000)
    async with await opened(caller) as stream:
        assert stream.status == 200
        assert len(await collect(stream)) == 3_000_000
        assert await stream.read() == b""
    assert (await caller.ask("/ok")).status == 200


async def test_head_comes_before_the_body_and_each_part_as_it_is_sent(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"size": 6, "chunked": 1, "drip": {"bytes": 11, "every_s": 0.05}}})
    async with await opened(caller) as stream:
        parts = [part async for part in stream]
    assert b"".join(parts) == b"xxxxxx"
    assert len(parts) > 1
    await upstream.until(lambda record: len(record.hits) == 1)


async def test_connection_is_used_again_only_after_the_end_of_the_body(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"size": 500_000}, "/big": {"size": 20_000_000}, "/empty": {"status": 204}, "/ok": OK})
    async with await opened(caller) as stream:
        await collect(stream)
    async with await opened(caller, "/empty") as stream:
        assert await collect(stream) == b""
    async with await opened(caller, method="HEAD") as stream:
        assert await collect(stream) == b""
    await caller.ask("/ok")
    assert upstream.accepted == 1
    async with await opened(caller, "/big") as stream:
        await stream.read()
    await caller.ask("/ok")
    assert upstream.accepted == 2
    with pytest.raises(ConnectionLost):
        await stream.read()


async def test_reader_that_takes_nothing_stops_the_service(rig: Rig) -> None:
    """Backpressure: neither side keeps more than its buffers."""
    size = 30_000_000
    upstream, caller = await rig.both({"/x": {"size": size}, "/ok": OK})
    async with await opened(caller) as stream:
        first = await stream.read()
        await asyncio.sleep(0.1)
        assert upstream.counts["/x"] == 1
        assert len(first) + len(await collect(stream)) == size
    assert (await caller.ask("/ok")).status == 200


async def test_deadline_ends_with_the_head_and_silence_is_bounded_by_the_rule(rig: Rig) -> None:
    _, caller = await rig.both({"/x": {"size": 1000, "drip": {"bytes": 200, "every_s": 0.1}}, "/hang": {"hang": True}, "/ok": OK})
    async with await opened(caller, within_s=0.3) as stream:
        assert len(await collect(stream)) == 1000
    with pytest.raises(UpstreamTimeout):
        await opened(caller, "/hang", within_s=0.1)
    rule = StreamRule(idle_timeout_s=0.02)
    with pytest.raises(UpstreamTimeout, match="stopped sending") as caught:
        await collect(await opened(caller, rule=rule))
    assert caught.value.may_be_processed
    assert (await caller.ask("/ok")).status == 200


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"size": 100_000, "truncate_after": 50_000}, ConnectionLost),
        ({"size": 100_000, "reset": 50_000}, ConnectionLost),
        ({"size": 100, "chunked": 10, "truncate_after": 50}, ConnectionLost),
        ({"raw": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"}, ProtocolError),
        ({"raw": "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nab"}, ProtocolError),
        ({"body": "no gzip", "headers": {"content-encoding": "gzip"}}, ProtocolError),
        ({"body": "ab", "headers": {"content-encoding": "compress"}}, ProtocolError),
    ],
)
async def test_fault_is_never_an_end(rig: Rig, behaviour: dict[str, Any], error: type[UpstreamError]) -> None:
    _, caller = await rig.both({"/x": behaviour, "/ok": OK})
    with pytest.raises(error) as caught:
        await collect(await opened(caller, rule=StreamRule(idle_timeout_s=10.0, is_decoded=True)))
    assert caught.value.may_be_processed
    assert (await caller.ask("/ok")).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate"])
async def test_codings_are_undone_only_if_the_rule_says_so(rig: Rig, encoding: str) -> None:
    _, caller = await rig.both({"/x": {"size": 1_000_000, "encoding": encoding, "chunked": 100}})
    async with await opened(caller, rule=StreamRule(idle_timeout_s=10.0, is_decoded=True)) as stream:
        assert await collect(stream) == b"x" * 1_000_000
    async with await opened(caller) as stream:
        coded = await collect(stream)
    assert len(coded) < 100_000
    assert encoding != "gzip" or gzip.decompress(coded) == b"x" * 1_000_000


@pytest.mark.parametrize("behaviour", [{"size": 1001}, {"size": 1001, "chunked": 100}, {"size": 50_000_000, "encoding": "gzip"}])
async def test_limit_of_the_rule_holds_as_received_and_as_decoded(rig: Rig, behaviour: dict[str, Any]) -> None:
    _, caller = await rig.both({"/x": behaviour, "/ok": OK})
    limit = 1000 if behaviour["size"] < 10_000 else 1_000_000
    with pytest.raises(ResponseTooLarge):
        await collect(await opened(caller, rule=StreamRule(idle_timeout_s=10.0, max_bytes=limit, is_decoded=True)))
    assert (await caller.ask("/ok")).status == 200


async def test_cancelled_read_closes_the_connection(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"size": 100, "drip": {"bytes": 50, "every_s": 30}}, "/ok": OK})
    stream = await opened(caller)
    task = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda record: record.open == 0)
    with pytest.raises(ConnectionLost):
        await stream.read()
    await stream.aclose()


async def test_closing_the_transport_ends_its_streams(rig: Rig) -> None:
    _, caller = await rig.both({"/x": {"size": 100, "drip": {"bytes": 50, "every_s": 30}}})
    stream = await opened(caller)
    task = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.05)
    await caller.transport.aclose()
    with pytest.raises(UpstreamError):
        await task
    await stream.aclose()
