"""Under load, one of five upstreams accepts connections and never answers: only its own step fails."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.footprint import MIB, Footprint
from tests.support.gateway import Gateway, running_gateway
from tests.support.load import Reply, closed_loop, percentile, under_load
from tests.support.tcp_proxy import CLEAR, Conditions, TCPProxy

NAMES: Final = ("one", "two", "three", "four", "five")
HEALTHY: Final = NAMES[:-1]
CLIENTS: Final = 16
REQUESTS: Final = 128
SERVICE_S: Final = 0.02
# Timeout of the step of the silent upstream; the other steps have practically none.
TIMEOUT_MS: Final = 300.0

# Latency of the other steps during the black hole, relative to before. If the silent upstream delayed them, the factor would be about 10.
P99_FACTOR: Final = 3.0
MEDIAN_FACTOR: Final = 2.0
# A pause of the machine may hit only one of the two runs, so one good round of these is sufficient proof.
ROUNDS: Final = 8
# Less than the request's own timeout even when timers are late on a busy machine.
PATIENCE_S: Final = 20.0
SOON_MS: Final = 10_000.0
MEMORY_BYTES: Final = 16 * MIB


@asynccontextmanager
async def five_upstreams(folder: Path) -> AsyncIterator[tuple[Gateway, dict[str, TCPProxy]]]:
    async with AsyncExitStack() as exits:
        proxies = {}
        for name in NAMES:
            upstream = await exits.enter_async_context(ScriptedUpstream({"*": {"json": {"name": name}, "delay_s": SERVICE_S}}))
            proxies[name] = await exits.enter_async_context(TCPProxy(upstream.port))
        lines = ["version: 1", "upstreams:"]
        lines += [f"  {name}: {{url: '{proxy.url}', connect_timeout: {PATIENCE_S:g}s}}" for name, proxy in proxies.items()]
        lines += ["endpoints:"]
        # `/hasty` is used while the upstream is silent: only there the timeout must expire.
        for path, timeout_ms in (("/all", PATIENCE_S * 1000), ("/hasty", TIMEOUT_MS)):
            lines += [f"  - path: {path}", f"    timeout: {PATIENCE_S:g}s", "    steps:"]
            lines += [f"      {name}: {{upstream: {name}, path: /}}" for name in HEALTHY]
            lines += [f"      five: {{upstream: five, path: /, timeout: {timeout_ms:g}ms}}"]
        yield await exits.enter_async_context(running_gateway("\n".join(lines), folder)), proxies


def factor(before: list[Reply], during: list[Reply], percent: float) -> float:
    """The largest increase, over the other steps, of a percentile of the latency, as a factor."""

    def ms(replies: list[Reply], step: str) -> float:
        return percentile((reply.steps[step].ms for reply in replies), percent)

    return max(ms(during, name) / ms(before, name) for name in HEALTHY)


@pytest.mark.parametrize(
    "hole",
    [
        pytest.param(Conditions(is_black_hole=True), id="nothing passes", marks=pytest.mark.both_loops),
        pytest.param(Conditions(accept="ignore", is_black_hole=True), id="handshakes do not end either"),
    ],
)
async def test_silent_upstream_fails_only_its_own_step(hole: Conditions, tmp_path: Path) -> None:
    async with five_upstreams(tmp_path) as (gateway, proxies):
        await closed_loop(gateway.port, "/all", clients=CLIENTS, requests=CLIENTS * 4)
        factors: list[str] = []
        is_unmoved = False
        for _ in range(ROUNDS):
            before = await closed_loop(gateway.port, "/all", clients=CLIENTS, requests=REQUESTS)
            at_rest = Footprint.now()
            await proxies["five"].become(hole)
            during = await closed_loop(gateway.port, "/hasty", clients=CLIENTS, requests=REQUESTS)
            await proxies["five"].become(CLEAR)

            assert all(reply.is_complete for reply in before)
            for reply in during:
                assert (reply.status, reply.is_complete) == (200, False)
                assert reply.json == {name: {"name": name} for name in HEALTHY} | {"five": None}
                assert {name: timing.failure for name, timing in reply.steps.items()} == dict.fromkeys(HEALTHY) | {"five": "timeout"}
                assert reply.steps["five"].ms < SOON_MS
                assert reply.elapsed_s * 1000 < SOON_MS

            # Every failed connection attempt is closed; at most one other connection for each client remains.
            def is_settled(now: Footprint, then: Footprint = at_rest) -> bool:
                return now.tasks <= then.tasks and now.descriptors <= then.descriptors and proxies["five"].open == 0

            after = await Footprint.settled(is_settled)
            assert is_settled(after), (at_rest, after, proxies["five"].open)
            assert all(proxies[name].open <= CLIENTS for name in HEALTHY)
            assert after.rss_bytes - at_rest.rss_bytes < MEMORY_BYTES

            p99, median = factor(before, during, 99), factor(before, during, 50)
            factors.append(f"p99 {p99:.2f}, median {median:.2f}")
            if is_unmoved := p99 < P99_FACTOR and median < MEDIAN_FACTOR:
                break
        assert is_unmoved, f"in each of {ROUNDS} rounds the other steps became slower: {factors}"

        again = await closed_loop(gateway.port, "/all", clients=CLIENTS, requests=CLIENTS * 2)
        assert all(reply.is_complete for reply in again)


async def test_upstream_that_falls_silent_under_load_is_used_again_when_it_recovers(tmp_path: Path) -> None:
    async with five_upstreams(tmp_path) as (gateway, proxies):
        async with under_load(gateway.port, "/hasty", clients=CLIENTS) as load:
            for conditions in (CLEAR, Conditions(is_black_hole=True), CLEAR):
                await proxies["five"].become(conditions)
                await load.more(CLIENTS * 6)
            # On a machine that pauses, a healthy upstream may sometimes answer too late.
            for _ in range(ROUNDS):
                if all(reply.is_complete for reply in load.replies[-CLIENTS:]):
                    break
                await load.more(CLIENTS)
            replies = load.replies.copy()
        assert {reply.status for reply in replies} == {200}
        assert {timing.failure for reply in replies for name, timing in reply.steps.items() if name != "five"} == {None}
        assert {reply.steps["five"].failure for reply in replies} == {None, "timeout"}
        assert all(reply.is_complete for reply in replies[-CLIENTS:])
