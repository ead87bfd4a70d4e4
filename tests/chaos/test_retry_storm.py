"""Retries must not multiply an outage: however it fails and whatever the load, the budget bounds the attempts that reach the upstream."""

import asyncio
import math
from pathlib import Path
from typing import Final

import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import running_gateway
from tests.support.load import Reply, closed_loop
from tests.support.tcp_proxy import CLEAR, Conditions, TCPProxy

CALLS: Final = 240
CLIENTS: Final = 24
# For faults where each call takes its whole timeout: two rounds.
WAITING_CLIENTS: Final = 120
ATTEMPTS: Final = 3
BUDGET: Final = 0.1
# From anabranch.core.budget: free retries in each window, the window, and its slices.
FLOOR: Final = 10
WINDOW_S: Final = 10.0
SLICE_S: Final = 1.0

DOCUMENT: Final = """
version: 1
upstreams:
  down:
    url: %s
    timeout: %s
    connect_timeout: 20s
    retry: {attempts: %d, backoff: 1ms, max_backoff: 4ms, budget: 10%%, on: [connect, timeout, connection_lost, 502, 503, 504]}
endpoints:
  - path: /storm
    timeout: 20s
    steps:
      storm: {upstream: down, path: /, required: true}
"""


def most_attempts(calls: int, elapsed_s: float) -> float:
    """(1 + budget) x calls + floor, with one floor for each window of the run; there is one window unless the machine is very slow."""
    windows = math.ceil((elapsed_s + 2 * SLICE_S) / WINDOW_S)
    return calls * (1 + BUDGET) + FLOOR * windows


def attempts(replies: list[Reply]) -> int:
    """Attempts of all calls, as reported in the problems."""
    return sum(error["attempts"] for reply in replies for error in reply.json["errors"])


@pytest.mark.parametrize(
    ("behaviour", "conditions"),
    [
        pytest.param({"status": 503}, CLEAR, id="answers 503", marks=pytest.mark.both_loops),
        pytest.param({"status": 503, "headers": {"retry-after": "0"}}, CLEAR, id="asks to come again at once"),
        pytest.param({"reset": "request"}, CLEAR, id="resets every request"),
        pytest.param({"json": 1}, Conditions(accept="reset"), id="resets every connection"),
        pytest.param({"json": 1}, Conditions(accept="refuse"), id="refuses connections"),
        pytest.param({"hang": True}, CLEAR, id="never answers"),
    ],
)
async def test_retries_of_a_dead_upstream_stay_within_the_budget(
    behaviour: dict[str, object], conditions: Conditions, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with ScriptedUpstream({"*": behaviour}) as upstream, TCPProxy(upstream.port, conditions) as proxy:
        document = DOCUMENT % (proxy.url, "1500ms" if behaviour.get("hang") else "10s", ATTEMPTS)
        async with running_gateway(document, tmp_path) as gateway:
            began = loop.time()
            clients = WAITING_CLIENTS if behaviour.get("hang") else CLIENTS
            replies = await closed_loop(gateway.port, "/storm", clients=clients, requests=CALLS)
            most = most_attempts(CALLS, loop.time() - began)

            assert all(reply.status in {502, 504} for reply in replies)
            # The budget was used up, so it was the budget that limited the attempts.
            assert CALLS * (1 + BUDGET) <= attempts(replies) <= most
            if behaviour.get("hang"):
                assert len(upstream.hits) <= attempts(replies)  # some attempts expired before they arrived
            elif conditions.accept == "forward":
                assert len(upstream.hits) == attempts(replies)
            elif conditions.accept == "reset":
                assert proxy.accepted == attempts(replies)

            await proxy.become(CLEAR)
            upstream.on("*", {"json": {"is": "well"}})
            hits = len(upstream.hits)
            again = await closed_loop(gateway.port, "/storm", clients=CLIENTS, requests=CLIENTS * 4)
            assert {reply.body for reply in again} == {b'{"storm":{"is": "well"}}'}
            assert len(upstream.hits) == hits + len(again)
