"""Any bytes from an upstream, split anywhere, give an answer or an UpstreamError; the next exchange is correct and nothing is leaked."""

import asyncio
import random
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import UpstreamError
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.seam import Transport
from anabranch.upstream.stock import HTTPXTransport, StockPool
from anabranch.upstream.wire import WireTransport
from tests.support.leaks import no_leaks

PIECES = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", b"HTTP/1.1 101 Switching\r\n", b"HTTP/2.0 200\r\n",
    b"content-length: 0\r\n", b"content-length: 5\r\n", b"content-length: 5, 5\r\n", b"Content-Length: 4294967296\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"connection: close\r\n", b"connection: keep-alive\r\n",
    b"content-encoding: gzip\r\n", b"content-encoding: br\r\n", b"upgrade: h2c\r\n", b"x: y\r\n", b"x:\r\n", b" folded\r\n", b": none\r\n",
    b"\r\n", b"\n", b"\r", b"\x00", b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ffffffffffffffffff\r\n",
    b"hello", b"hello world", b"\x1f\x8b\x08\x00", b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned",
]  # fmt: skip

wires = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5)), max_size=10).map(b"".join),
    # A complete answer with a few damaged bytes.
    st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=3)).map(
        lambda damage: (
            (whole := b"HTTP/1.1 200 OK\r\nserver: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nt: x\r\n\r\n")[: damage[0]]
            + damage[1]
            + whole[damage[0] + len(damage[1]) :]
        )
    ),
)
TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "wire": lambda: WireTransport(connect_timeout_s=30, max_response=1000),
    "httpx": lambda: HTTPXTransport(StockPool(), connect_timeout_s=30, max_response=1000),
}


async def play(transport: Transport, sent: list[bytes], step: int, method: str, keep_open: bool) -> None:
    routes: dict[str, object] = {
        "/warm": {"json": 0},
        # `close_after` would end it too; without it, a hang shows that the parser waits for more bytes.
        "/x": [{"raw": raw, "drip": {"bytes": step, "every_s": 0.0}} for raw in sent],
        "/ok": {"json": "right"},
    }
    async with no_leaks(), ScriptedUpstream({"routes": routes}) as upstream:
        address = Address.parse(upstream.url)
        loop = asyncio.get_running_loop()
        try:
            if keep_open:
                await transport.exchange(Request(method="GET", target="/warm"), address, loop.time() + 30)
            for _ in sent:
                try:
                    answer = await transport.exchange(Request(method=method, target="/x"), address, loop.time() + 30)
                except UpstreamError as error:
                    is_right = error.may_be_processed and not error.is_timeout
                else:
                    is_right = isinstance(answer, Answer) and len(answer.body) <= 1000
                assert is_right
                # Bytes that follow a complete answer and arrive after the next request was sent cannot be distinguished from its answer,
                # so let them arrive first.
                await upstream.until(lambda record: record.concurrent == 0)
                await asyncio.sleep(0.002)
                # A GET, because the script closes after an answer that looks kept-alive, where a POST may legitimately be lost.
                after = await transport.exchange(Request(method="GET", target="/ok"), address, loop.time() + 30)
                assert (after.status, after.body) == (200, b'"right"')
        finally:
            await transport.aclose()


@pytest.mark.parametrize("kind", list(TRANSPORTS))
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors])
@given(
    sent=st.lists(wires, min_size=1, max_size=3),
    step=st.integers(1, 300),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    warm=st.booleans(),
)
def test_any_response_bytes_are_an_answer_or_an_upstream_error(
    kind: str, loop_factory: Callable[[], asyncio.AbstractEventLoop], sent: list[bytes], step: int, method: str, warm: bool
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(play(TRANSPORTS[kind](), sent, step, method, warm))


def test_random_bytes_in_bulk_do_not_break_the_wire_transport() -> None:
    """Less clever than hypothesis, but much more of it over one transport."""
    dice = random.Random(20)
    sent = [b"".join(dice.choices(PIECES, k=dice.randrange(8))) + dice.randbytes(dice.randrange(4)) for _ in range(400)]
    asyncio.run(play(WireTransport(connect_timeout_s=30, max_response=1000), sent, 40, "GET", keep_open=True))
