"""A watched coroutine behaves as the bare one, and says when it held the loop."""

import asyncio
import time

import pytest

from app.compute.stall import Watched


async def busy(seconds: float) -> str:
    await asyncio.sleep(0)
    time.sleep(seconds)
    await asyncio.sleep(0)
    return "done"


async def test_a_turn_that_takes_long_is_told() -> None:
    told: list[float] = []
    assert await Watched(busy(0.03), threshold_s=0.02, on_stall=told.append) == "done"
    assert len(told) == 1
    assert told[0] >= 0.03


async def test_waiting_is_not_blocking() -> None:
    told: list[float] = []
    await Watched(asyncio.sleep(0.03), threshold_s=0.02, on_stall=told.append)
    assert told == []


async def test_exceptions_go_both_ways() -> None:
    caught: list[str] = []

    async def inner() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            caught.append("cancelled")
        raise KeyError("own")

    task = asyncio.ensure_future(_await(Watched(inner(), threshold_s=1, on_stall=lambda _: None)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(KeyError):
        await task
    assert caught == ["cancelled"]


async def _await(watched: Watched) -> object:
    return await watched
