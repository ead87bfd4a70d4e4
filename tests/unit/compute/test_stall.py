"""A watched coroutine behaves like the bare one, and reports when it has blocked the loop."""

import asyncio

import pytest

from anabranch.compute.stall import Watched
from tests.support.clock import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr("anabranch.compute.stall.perf_counter", fake)
    return fake


async def busy(clock: FakeClock, seconds: float) -> str:
    await asyncio.sleep(0)
    clock.advance(seconds)
    await asyncio.sleep(0)
    return "done"


async def test_a_long_turn_of_the_loop_is_reported(clock: FakeClock) -> None:
    told: list[float] = []
    assert await Watched(busy(clock, 0.03), threshold_s=0.02, on_stall=told.append) == "done"
    assert told == [pytest.approx(0.03)]


async def test_waiting_is_not_blocking(clock: FakeClock) -> None:
    told: list[float] = []
    asyncio.get_running_loop().call_soon(clock.advance, 0.03)
    await Watched(asyncio.sleep(0), threshold_s=0.02, on_stall=told.append)
    assert told == []
    assert clock.now == pytest.approx(FakeClock().now + 0.03)


async def test_exceptions_pass_in_both_directions() -> None:
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
