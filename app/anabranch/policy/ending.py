"""Ending a task that a layer has begun, so that nothing it began outlives its call."""

import asyncio
from typing import Any


async def end_task(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` and wait until it has ended, whatever it ends with.

    Waits to the end even when the caller is cancelled meanwhile, and raises that cancellation then: an attempt that is cancelled closes
    its connection at once, so this takes a turn of the loop or two.
    """
    task.cancel()
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancellation = error
    if not task.cancelled():
        # Marks a failure as seen.
        task.exception()
    if cancellation is not None:
        raise cancellation
