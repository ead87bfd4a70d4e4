"""The order in which steps finish when a request decided by a failure is replayed."""

import asyncio

import pytest

from anabranch.journal.record import Record
from anabranch.replay.turns import UNKNOWN_CALL, UNKNOWN_FUNCTION, Turn, Turns
from tests.support.recorded import answered, recorded

STEPS = [answered(name, "a", f"/{name}", b"1", started_ms=0.0, elapsed_ms=ms) for name, ms in (("late", 50.0), ("early", 5.0))]


def record(failure: str | None) -> Record:
    return recorded("/x", b"", STEPS, failure=failure)


async def order(turns: Turns, wanted: list[tuple[str, Turn]], *, needs_time: str | None = None) -> list[str]:
    """The order in which steps finish when they start in the given order. `needs_time`: finishes only after the others have had enough
    time."""
    ended: list[str] = []
    gate = asyncio.Event()

    async def step(name: str, turn: Turn) -> None:
        with turns.running(turn):
            if name == needs_time:
                await gate.wait()
            await turns.wait(turn)
            ended.append(name)

    tasks = [asyncio.create_task(step(*one)) for one in wanted]
    for _ in range(100):
        await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    return ended


@pytest.mark.parametrize("is_reversed", [False, True])
async def test_steps_finish_in_their_recorded_order_and_unknown_ones_last(is_reversed: bool) -> None:
    turns = Turns(record("timeout"))
    late, early = (turns.of(step, UNKNOWN_CALL) for step in STEPS)
    wanted = [("late", late), ("call", UNKNOWN_CALL), ("function", UNKNOWN_FUNCTION), ("early", early)]
    found = await order(turns, wanted[::-1] if is_reversed else wanted)
    assert found == ["early", "late", "function", "call"]


async def test_a_later_step_waits_for_a_slow_function() -> None:
    turns = Turns(record("timeout"))
    late, early = (turns.of(step, UNKNOWN_CALL) for step in STEPS)
    assert await order(turns, [("late", late), ("early", early)], needs_time="early") == ["early", "late"]


async def test_a_cancelled_step_does_not_block_the_others() -> None:
    turns = Turns(record("timeout"))
    late, early = (turns.of(step, UNKNOWN_CALL) for step in STEPS)

    async def never() -> None:
        with turns.running(early):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(never())
    waiting = asyncio.create_task(turns.wait(late))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    task.cancel()
    async with asyncio.timeout(10):
        await waiting


async def test_without_a_failure_no_step_waits() -> None:
    turns = Turns(record(None))
    with turns.running(turns.of(STEPS[1], UNKNOWN_CALL)):
        await turns.wait(UNKNOWN_CALL)
