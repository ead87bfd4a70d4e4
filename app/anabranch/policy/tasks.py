"""Cancels a task that a layer has started and waits for its end, so that no task outlives its call."""

import asyncio
from typing import Any


async def cancel_and_wait(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` and wait until it has ended. Its result or exception is ignored.

    If the caller is cancelled meanwhile, still waits for the end of `task` and then raises the cancellation. A cancelled attempt closes
    its connection at once, so this takes only one or two iterations of the event loop.
    """
    task.cancel()
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancellation = error
    if not task.cancelled():
        # Marks the exception as retrieved; otherwise asyncio logs it.
        task.exception()
    if cancellation is not None:
        raise cancellation
