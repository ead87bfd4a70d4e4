"""Ending tasks: whoever starts a task cancels it and awaits it, whatever happens to the caller meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

_JOBS_OF_A_TURN: Final = 64


async def cancel_and_wait(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancel the tasks that still run, and return when every one has ended, however it ended.

    A cancellation of the caller does not cut the wait short, however often it comes; it is raised at the end. Failures of the tasks count as
    seen: a caller that wants them looks at `task.exception()`. Cost: nothing is awaited when all have ended already.
    """
    tasks = list(tasks)
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    interruption: asyncio.CancelledError | None = None
    while unfinished := [task for task in pending if not task.done()]:
        try:
            await asyncio.wait(unfinished)
        except asyncio.CancelledError as error:
            interruption = error
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if interruption is not None:
        raise interruption


async def some_at_once(run: Callable[[T], Awaitable[None]], jobs: list[T], at_once: int, *, can_fail: bool) -> None:
    """Run every job, at most `at_once` at a time. `can_fail`: a job may raise, which cancels the others.

    Jobs that never wait, such as calls that an open breaker rejects, do not keep the event loop: after 64 of them, or one for each of more that run
    at once, everything else has its turn. Cancellation: the jobs that run are cancelled and awaited.
    """
    left = iter(jobs)
    workers = min(at_once, len(jobs))
    turn = max(1, _JOBS_OF_A_TURN // max(1, workers))
    if workers < 2:
        await _work(run, left, turn)
        return
    # Where no job can fail, this task works too.
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_work(run, left, turn)) for _ in range(workers if can_fail else workers - 1)]
    try:
        if can_fail:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        else:
            await _work(run, left, turn)
            await asyncio.wait(tasks)
    finally:
        await cancel_and_wait(tasks)
    # Every failure is looked at: asyncio logs a traceback of each one that nobody has seen.
    for error in [task.exception() for task in tasks if not task.cancelled()]:
        if error is not None:
            raise error


async def _work(run: Callable[[T], Awaitable[None]], left: Iterator[T], turn: int) -> None:
    for count, job in enumerate(left, 1):
        await run(job)
        if count % turn == 0:
            await asyncio.sleep(0)


def start_protected(work: "Coroutine[Any, Any, None]", *, name: str) -> "asyncio.Task[None]":
    """Start a task that its owner ends, in the running loop.

    `asyncio.run` cancels every task at once when its main one has returned. This task is not among them, so that an owner which is cancelled then
    can still let it finish: a journal's writer must not be stopped with records in its queue. Whoever starts it has to end it.

    **Source:** "Task lifetime support" in Python's guide to extending asyncio.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    asyncio._unregister_task(task)  # noqa: SLF001 - documented
    return task
