"""An upstream that fails and recovers repeatedly: while it is down the breaker lets only probes through, and the test counts every call."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.load import Reply, Visitor, closed_loop
from tests.support.tcp_proxy import CLEAR, Conditions, TCPProxy

MINIMUM_CALLS: Final = 10
PROBES: Final = 3
# Long enough to reject a crowd meanwhile. Retry-After is the remaining time in seconds, rounded up: 1.
OPEN_FOR_S: Final = 1.0
# Timers are rounded to milliseconds.
OPENED_S: Final = OPEN_FOR_S + 0.01
CYCLES: Final = 2
CROWD: Final = 20

DOCUMENT: Final = """
version: 1
upstreams:
  flapping:
    url: %s
    timeout: 20s
    connect_timeout: 20s
    breaker: {window: 60s, failure_rate: 50%%, minimum_calls: %d, open_for: %gs, probes: %d}
endpoints:
  - path: /flap
    timeout: 20s
    steps:
      flap: {upstream: flapping, path: /, required: true}
"""


def failures(replies: list[Reply]) -> Counter[str | None]:
    return Counter(reply.steps["flap"].failure for reply in replies)


async def one_by_one(port: int, count: int) -> list[Reply]:
    async with Visitor(port) as visitor:
        return [await visitor.get("/flap") for _ in range(count)]


async def crowd(port: int) -> list[Reply]:
    """Send many requests at once."""
    return await closed_loop(port, "/flap", clients=CROWD, requests=CROWD)


async def crowd_while_probed(port: int, proxy: TCPProxy) -> list[Reply]:
    """Send many requests at once; the answers to the probes are held back until all others have been rejected."""
    await proxy.become(Conditions(is_black_hole=True))
    visits = [asyncio.create_task(one_by_one(port, 1)) for _ in range(CROWD)]
    under_way = set(visits)
    while len(under_way) > PROBES:
        _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    await proxy.become(CLEAR)
    return [reply for visit in visits for reply in await visit]


@pytest.mark.both_loops
async def test_breaker_opens_and_closes_and_every_probe_is_counted(tmp_path: Path) -> None:
    async with ScriptedUpstream({}) as upstream, TCPProxy(upstream.port) as proxy:
        hits = 0

        def expect(more: int) -> None:
            nonlocal hits
            hits += more
            assert len(upstream.hits) == hits

        document = DOCUMENT % (proxy.url, MINIMUM_CALLS, OPEN_FOR_S, PROBES)
        async with running_gateway(document, tmp_path) as gateway:
            port = gateway.port
            for _ in range(CYCLES):
                # Healthy: every call reaches the upstream.
                upstream.on("*", {"json": 1})
                assert failures(await crowd(port)) == {None: CROWD}
                expect(CROWD)

                # Failing: once failures make up half of the window, the breaker opens.
                upstream.on("*", {"status": 503})
                assert failures(await one_by_one(port, CROWD)) == {"upstream_status": CROWD}
                expect(CROWD)
                turned_away = await crowd(port)
                assert failures(turned_away) == {"breaker_open": CROWD}
                assert {(reply.status, reply.headers["retry-after"]) for reply in turned_away} == {(503, "1")}
                expect(0)

                # Still failing when probed: exactly the probes reach the upstream, and the breaker opens again.
                await asyncio.sleep(OPENED_S)
                assert failures(await crowd_while_probed(port, proxy)) == {"upstream_status": PROBES, "breaker_open": CROWD - PROBES}
                expect(PROBES)
                assert failures(await crowd(port)) == {"breaker_open": CROWD}
                expect(0)

                # Healthy again: the probes succeed, and from then on every call reaches the upstream.
                upstream.on("*", {"json": 1})
                await asyncio.sleep(OPENED_S)
                assert failures(await crowd_while_probed(port, proxy)) == {None: PROBES, "breaker_open": CROWD - PROBES}
                expect(PROBES)


RESETS: Final = Conditions(accept="reset")
REFUSES: Final = Conditions(accept="refuse")


@pytest.mark.parametrize(("down", "reason"), [(RESETS, "connection_lost"), (REFUSES, "connect_failed")], ids=["resets", "refuses"])
async def test_no_connection_is_attempted_while_the_breaker_is_open(down: Conditions, reason: str, tmp_path: Path) -> None:
    async with ScriptedUpstream({"*": {"json": 1}}) as upstream, TCPProxy(upstream.port) as proxy:
        document = DOCUMENT % (proxy.url, MINIMUM_CALLS, OPEN_FOR_S, PROBES)
        async with running_gateway(document, tmp_path) as gateway:
            port = gateway.port
            assert failures(await one_by_one(port, 5)) == {None: 5}
            assert (len(upstream.hits), proxy.accepted) == (5, 1)
            await proxy.become(down)
            proxy.drop()
            assert failures(await one_by_one(port, 5)) == {reason: 5}
            accepted = proxy.accepted
            assert accepted == (6 if down is RESETS else 1)

            assert failures(await crowd(port)) == {"breaker_open": CROWD}
            assert proxy.accepted == accepted

            # Sequential calls: the first probe fails, and there is no second.
            await asyncio.sleep(OPENED_S)
            assert failures(await one_by_one(port, 5)) == {reason: 1, "breaker_open": 4}
            assert proxy.accepted == accepted + (down is RESETS)

            await proxy.become(CLEAR)
            accepted = proxy.accepted
            await asyncio.sleep(OPENED_S)
            assert failures(await one_by_one(port, 10)) == {None: 10}
            assert (len(upstream.hits), proxy.accepted) == (15, accepted + 1)
