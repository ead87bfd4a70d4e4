import asyncio
import gc
from collections.abc import Awaitable
from itertools import pairwise
from typing import Any

import pytest

from anabranch.core.tasks import cancel_and_wait, some_at_once, start_protected


async def stubborn(release: asyncio.Event, log: list[str]) -> None:
    """Needs a moment to clean up, like a closing connection."""
    try:
        await asyncio.Event().wait()
    finally:
        await release.wait()
        log.append("cleaned up")


async def started(work: Awaitable[None]) -> "asyncio.Task[None]":
    task: asyncio.Task[None] = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


async def test_returns_only_when_every_task_has_cleaned_up() -> None:
    release, log = asyncio.Event(), list[str]()
    tasks = [await started(stubborn(release, log)) for _ in range(3)]
    ending = await started(cancel_and_wait(tasks))
    await asyncio.sleep(0)
    assert not ending.done()
    release.set()
    await ending
    assert log == ["cleaned up"] * 3


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancellation_of_the_caller_is_raised_after_the_tasks_have_ended(times: int) -> None:
    release, log = asyncio.Event(), list[str]()
    tasks = [await started(stubborn(release, log))]
    ending = await started(cancel_and_wait(tasks))
    for _ in range(times):
        ending.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not ending.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert log == ["cleaned up"]


async def test_failures_are_left_to_the_caller_and_marked_as_retrieved() -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    task = await started(fails())
    await cancel_and_wait([task])
    assert isinstance(task.exception(), ValueError)


async def test_ended_tasks_cost_no_turn_of_the_loop() -> None:
    task = await started(asyncio.sleep(0))
    await task
    turned = False

    def turn() -> None:
        nonlocal turned
        turned = True

    asyncio.get_running_loop().call_soon(turn)
    await cancel_and_wait([task])
    await cancel_and_wait([])
    assert not turned


async def test_failures_of_tasks_that_had_ended_before_count_as_seen() -> None:
    unseen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))

    async def fail() -> None:
        raise ValueError

    tasks = [loop.create_task(fail()) for _ in range(2)]
    await asyncio.wait(tasks)
    await cancel_and_wait(tasks)
    tasks.clear()
    gc.collect()
    assert unseen == []


def test_protected_task_ends_with_its_owner_and_not_with_the_event_loop() -> None:
    log: list[str] = []

    async def work(closing: asyncio.Event) -> None:
        await closing.wait()
        await asyncio.sleep(0)
        log.append("everything is written")

    async def own() -> None:
        closing = asyncio.Event()
        task = start_protected(work(closing), name="writer")
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await task
            log.append("the owner has ended")

    async def main() -> None:
        asyncio.get_running_loop().create_task(own())
        await asyncio.sleep(0)

    asyncio.run(main())
    assert log == ["everything is written", "the owner has ended"]


@pytest.mark.parametrize("at_once", [1, 8, 1000])
async def test_jobs_that_never_wait_leave_the_loop_to_others(at_once: int) -> None:
    done = 0
    seen = list[int]()

    async def job(_: int) -> None:
        nonlocal done
        done += 1

    async def other() -> None:
        while True:
            seen.append(done)
            await asyncio.sleep(0)

    watching = await started(other())
    await some_at_once(job, list(range(10_000)), at_once, can_fail=False)
    await cancel_and_wait([watching])
    assert done == 10_000
    assert max(after - before for before, after in pairwise(seen)) <= max(64, at_once) + 64


async def test_the_first_failure_cancels_the_other_jobs() -> None:
    ended = list[int]()

    async def job(number: int) -> None:
        try:
            if number == 1:
                raise ValueError("one")
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(ValueError, match="one"):
        await some_at_once(job, [0, 1, 2, 3], 3, can_fail=True)
    assert sorted(ended) == [0, 1, 2]


async def test_failures_at_the_same_time_are_all_seen(caplog: pytest.LogCaptureFixture) -> None:
    async def job(number: int) -> None:
        await asyncio.sleep(0)
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        await some_at_once(job, [0, 1, 2], 3, can_fail=True)
    gc.collect()
    assert not caplog.records
