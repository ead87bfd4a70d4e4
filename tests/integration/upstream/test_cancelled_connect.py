"""Cancellation at every turn of the loop while connecting: nothing stays open, on either loop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from anabranch.core.exchange import Address, Request
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.wire import WireTransport

_TURNS = 12


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _cancel_at_every_turn() -> None:
    async with ScriptedUpstream({"/": {"json": {}}}) as upstream:
        loop = asyncio.get_running_loop()
        address = Address.parse(upstream.url)
        for turns in range(_TURNS):
            before = _descriptors()
            async with WireTransport(connect_timeout_s=30.0) as transport:
                for _ in range(50):
                    task = asyncio.ensure_future(transport.exchange(Request("GET", "/"), address, loop.time() + 30))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])
                async with asyncio.timeout(30):
                    while transport.connections > transport.idle_connections:
                        await asyncio.sleep(0.01)
                assert transport.connections <= 1
                answer = await transport.exchange(Request("GET", "/"), address, loop.time() + 30)
                assert answer.status == 200
            async with asyncio.timeout(30):
                while _descriptors() > before:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connect_cancelled_at_any_turn_leaves_nothing_open(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    run(_cancel_at_every_turn())
