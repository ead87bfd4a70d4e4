import asyncio

import pytest

from tests.support.clock import START, FakeClock, FakeTimeLoop


def test_clock_moves_only_when_advanced() -> None:
    clock = FakeClock()
    assert clock() == START
    clock.advance(2.5)
    assert clock() == START + 2.5


def test_an_hour_of_sleep_takes_no_time_and_timers_fire_in_order() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time() - START))

        await asyncio.gather(sleeper("late", 3600.0), sleeper("early", 0.001), sleeper("middle", 5.0))
        return [(name, round(when, 6)) for name, when in seen]

    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        assert runner.run(main()) == [("early", 0.001), ("middle", 5.0), ("late", 3600.0)]


def test_timeouts_use_the_simulated_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(loop.time() + 7):
                await asyncio.sleep(8)
        return loop.time()

    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        assert runner.run(main()) == pytest.approx(START + 7)
