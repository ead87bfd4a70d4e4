"""Ending tasks: whoever starts a task cancels it and awaits it, whatever happens to the caller meanwhile."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


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


def start_protected(work: "Coroutine[Any, Any, None]", *, name: str) -> "asyncio.Task[None]":
    """Start a task that its owner ends, in the running loop.

    `asyncio.run` cancels every task at once when its main one has returned. This task is not among them, so that an owner which is cancelled then
    can still let it finish: a journal's writer must not be stopped with records in its queue. Whoever starts it has to end it.

    **Source:** "Task lifetime support" in Python's guide to extending asyncio.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    asyncio._unregister_task(task)  # noqa: SLF001 - documented
    return task
