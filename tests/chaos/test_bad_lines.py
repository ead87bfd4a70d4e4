"""All kinds of network faults on the way to an upstream: its own step reports the reason, the other step is unaffected, the next request
works."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.eventually import eventually
from tests.support.gateway import Gateway, running_gateway
from tests.support.load import Reply, Visitor, closed_loop
from tests.support.tcp_proxy import CLEAR, Conditions, TCPProxy

# Only for faults that end in a timeout; elsewhere even a slow machine must not reach one.
TIMEOUT_S: Final = 0.6
CONNECT_TIMEOUT_S: Final = 1.5
PATIENCE_S: Final = 20.0
# Less than PATIENCE_S even when timers are late on a busy machine.
SOON_S: Final = 10.0
BODY: Final = {"text": "x" * 40_000, "end": True}
WHOLE: Final = {"bad": BODY, "good": {"is": "well"}}


@asynccontextmanager
async def bad_line(
    folder: Path, behaviour: dict[str, Any], *, reason: str = "", transport: str = "wire"
) -> AsyncIterator[tuple[Gateway, TCPProxy]]:
    """`/both` calls both upstreams with a long timeout; `/hasty` too, but waits only `TIMEOUT_S` for the bad one. `reason`: expected
    failure."""
    connect_timeout_s = CONNECT_TIMEOUT_S if reason == "connect_timeout" else PATIENCE_S
    async with AsyncExitStack() as exits:
        bad = await exits.enter_async_context(ScriptedUpstream({"*": behaviour}))
        good = await exits.enter_async_context(ScriptedUpstream({"*": {"json": {"is": "well"}}}))
        proxy = await exits.enter_async_context(TCPProxy(bad.port))
        document = f"""
version: 1
upstreams:
  bad: {{url: '{proxy.url}', connect_timeout: {connect_timeout_s:g}s, transport: {transport}}}
  good: {{url: '{good.url}', connect_timeout: {PATIENCE_S:g}s}}
endpoints:
  - path: /both
    timeout: {PATIENCE_S:g}s
    steps:
      bad: {{upstream: bad, path: /}}
      good: {{upstream: good, path: /}}
  - path: /hasty
    timeout: {PATIENCE_S:g}s
    steps:
      bad: {{upstream: bad, path: /, timeout: {TIMEOUT_S:g}s}}
      good: {{upstream: good, path: /}}
"""
        yield await exits.enter_async_context(running_gateway(document, folder)), proxy


def check_whole(replies: list[Reply]) -> None:
    for reply in replies:
        assert (reply.status, reply.json, reply.is_complete) == (200, WHOLE, True), reply.headers.get("server-timing")


CHUNKED: Final = {"json": BODY, "chunked": 1000}
LENGTH: Final = {"json": BODY}
UNTIL_CLOSE: Final = {"json": BODY, "content_length": False}

FAULTS: Final = {
    "cut before the head": (Conditions(cut_after=0), LENGTH, "connection_lost"),
    "cut in the status line": (Conditions(cut_after=9), LENGTH, "connection_lost"),
    "cut in the head": (Conditions(cut_after=40), LENGTH, "connection_lost"),
    "cut in the body": (Conditions(cut_after=20_000), LENGTH, "connection_lost"),
    "cut in a chunk": (Conditions(cut_after=20_000), CHUNKED, "connection_lost"),
    "cut in the last chunk": (Conditions(cut_after=40_000), CHUNKED, "connection_lost"),
    "reset before the head": (Conditions(cut_after=0, cut_by="reset"), LENGTH, "connection_lost"),
    "reset in the body": (Conditions(cut_after=20_000, cut_by="reset"), LENGTH, "connection_lost"),
    "reset in a body without length": (Conditions(cut_after=20_000, cut_by="reset"), UNTIL_CLOSE, "connection_lost"),
    # Only the incomplete JSON distinguishes this end from the correct one.
    "cut in a body without length": (Conditions(cut_after=20_000), UNTIL_CLOSE, "invalid_json"),
    "drips": (Conditions(bytes_per_s=5_000), LENGTH, "timeout"),
    "drips chunks": (Conditions(bytes_per_s=5_000), CHUNKED, "timeout"),
    "too late": (Conditions(latency_s=2 * TIMEOUT_S), LENGTH, "timeout"),
    "silent": (Conditions(is_black_hole=True), LENGTH, "timeout"),
}


ON_BOTH_LOOPS: Final = {"cut in the body", "reset in the body", "silent"}


@pytest.mark.parametrize(
    ("conditions", "behaviour", "reason"),
    [pytest.param(*fault, id=name, marks=pytest.mark.both_loops if name in ON_BOTH_LOOPS else ()) for name, fault in FAULTS.items()],
)
async def test_bad_network_fails_only_its_own_step_until_it_recovers(
    conditions: Conditions, behaviour: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async with bad_line(tmp_path, behaviour, reason=reason) as (gateway, proxy), Visitor(gateway.port) as visitor:
        # The first fault hits a kept-alive connection, the second a fresh one.
        check_whole([await visitor.get("/both")])
        await proxy.become(conditions)
        check_partial([await visitor.get(path_for(reason)), await visitor.get(path_for(reason))], reason)
        await proxy.become(CLEAR)
        check_whole(await closed_loop(gateway.port, "/both", clients=4, requests=8))


NEW_CONNECTIONS: Final = {
    "accepted and reset": (Conditions(accept="reset"), "connection_lost"),
    "refused": (Conditions(accept="refuse"), "connect_failed"),
    "not accepted": (Conditions(accept="ignore"), "connect_timeout"),
    "accepted and not answered": (Conditions(accept="swallow"), "timeout"),
}


@pytest.mark.parametrize("transport", ["wire", "httpx"])
@pytest.mark.parametrize(("conditions", "reason"), NEW_CONNECTIONS.values(), ids=NEW_CONNECTIONS)
async def test_unreachable_upstream_fails_only_its_own_step_and_is_used_again(
    conditions: Conditions, reason: str, transport: str, tmp_path: Path
) -> None:
    async with bad_line(tmp_path, LENGTH, reason=reason, transport=transport) as (gateway, proxy), Visitor(gateway.port) as visitor:
        check_whole([await visitor.get("/both")])
        await proxy.become(conditions)
        proxy.drop()
        check_partial([await visitor.get(path_for(reason)), await visitor.get(path_for(reason))], reason)
        await proxy.become(CLEAR)
        check_whole(await closed_loop(gateway.port, "/both", clients=4, requests=8))


def path_for(reason: str) -> str:
    return "/hasty" if reason == "timeout" else "/both"


def check_partial(replies: list[Reply], reason: str) -> None:
    for reply in replies:
        assert (reply.status, reply.is_complete) == (200, False)
        assert reply.json == {**WHOLE, "bad": None}
        assert {name: timing.failure for name, timing in reply.steps.items()} == {"bad": reason, "good": None}
        assert reply.headers["proxy-status"].startswith("anabranch;error=")
        assert f'details="bad: {reason}"' in reply.headers["proxy-status"]
        assert reply.elapsed_s < SOON_S


@pytest.mark.parametrize("behaviour", [LENGTH, CHUNKED], ids=["length", "chunks"])
async def test_slow_but_sufficient_network_delivers_the_complete_answer(behaviour: dict[str, Any], tmp_path: Path) -> None:
    async with bad_line(tmp_path, behaviour) as (gateway, proxy):
        await proxy.become(Conditions(latency_s=0.01, jitter_s=0.02, bytes_per_s=1_000_000))
        replies = await closed_loop(gateway.port, "/both", clients=4, requests=16)
        check_whole(replies)
        # 40 kB at 1 MB/s.
        assert min(reply.steps["bad"].ms for reply in replies) > 40
        assert any(reply.steps["good"].ms < reply.steps["bad"].ms / 2 for reply in replies)


@pytest.mark.both_loops
async def test_constantly_changing_network_never_causes_a_wrong_answer(tmp_path: Path) -> None:
    """Every answer is complete or gives the reason, and connections do not pile up."""
    lines = [
        CLEAR,
        Conditions(latency_s=0.005, jitter_s=0.01),
        Conditions(cut_after=30_000),
        Conditions(accept="refuse"),
        Conditions(cut_after=10, cut_by="reset"),
        Conditions(bytes_per_s=5_000_000),
        Conditions(accept="reset"),
    ]
    clients = 8
    async with bad_line(tmp_path, LENGTH) as (gateway, proxy):
        loading = asyncio.create_task(closed_loop(gateway.port, "/both", clients=clients, requests=800))
        for step in range(200):
            await proxy.become(lines[step % len(lines)])
            if step % 5 == 0:
                proxy.drop("close" if step % 2 else "reset")
            await eventually(lambda: proxy.open <= 2 * clients)
            await asyncio.sleep(0.005)
        await proxy.become(CLEAR)
        replies = await loading
        for reply in replies:
            assert reply.status == 200
            assert reply.json["good"] == WHOLE["good"]
            failure = reply.steps["bad"].failure
            assert reply.json["bad"] == (BODY if failure is None else None)
            assert failure in {None, "connection_lost", "connect_failed", "connect_timeout", "timeout"}
        assert len({reply.steps["bad"].failure for reply in replies}) > 1
        check_whole(await closed_loop(gateway.port, "/both", clients=clients, requests=2 * clients))
        await eventually(lambda: proxy.open <= clients)
