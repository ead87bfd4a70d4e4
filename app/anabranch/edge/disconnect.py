"""Cancels the task of a request when its client disconnects.

uvicorn does not cancel anything on a disconnect: `receive` returns `http.disconnect` to a caller that asks. Most requests finish first, so
polling starts after 20 ms. uvicorn's own `receive` belongs to an object with a `disconnected` flag: a timer polls the flag, at half a
microsecond each time. Any other `receive` is awaited in a task.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.types import Receive

from anabranch.core.tasks import cancel_and_wait

T = TypeVar("T")

WATCH_AFTER_S: Final = 0.02
"""Only requests that still run after this time are watched: a timer costs half a microsecond, a task twenty."""


class ClientGone(Exception):
    """The client disconnected. There is nobody to answer."""


async def run_watched(receive: Receive, run: Awaitable[T], after_s: float = WATCH_AFTER_S) -> T:
    """Await `run`. When the client disconnects, cancels it and raises ClientGone. A cancellation from outside is raised as such."""
    watch = DisconnectWatch(receive, asyncio.get_running_loop(), after_s)
    try:
        try:
            result = await run
        finally:
            await watch.stop()
    except asyncio.CancelledError:
        if watch.absorb():
            raise ClientGone from None
        raise
    if watch.is_gone:
        watch.absorb()
        raise ClientGone
    return result


class DisconnectWatch:
    """Cancels the task that created the watch when the client disconnects. `stop()` must be awaited in every case.

    `is_gone`: the client disconnected, so the task is being (or was) cancelled by this watch. An outside cancellation does not set it.
    """

    __slots__ = ("_after_s", "_baseline", "_loop", "_receive", "_target", "_timer", "_watcher", "is_gone")

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop, after_s: float = WATCH_AFTER_S) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self._receive = receive
        self._loop = loop
        self._target = task
        self._baseline = task.cancelling()
        self._watcher: asyncio.Task[None] | None = None
        self._after_s = after_s
        self._timer = loop.call_later(after_s, self._poll)
        self.is_gone = False

    def _poll(self) -> None:
        # The body has been read by now, or is not needed: only the disconnect is still of interest.
        is_gone = getattr(getattr(self._receive, "__self__", None), "disconnected", None)
        if is_gone is False:
            self._timer = self._loop.call_later(self._after_s, self._poll)
        elif is_gone is True:
            self._cancel_target()
        else:
            self._watcher = self._loop.create_task(self._watch(), name="anabranch-disconnect")

    def _cancel_target(self) -> None:
        self.is_gone = True
        self._target.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # noqa: ASYNC110 - `receive` is what waits
            # The rest of an unneeded body. Yield, so that a `receive` which returns at once every time cannot block the loop.
            await asyncio.sleep(0)
        self._cancel_target()

    async def stop(self) -> None:
        """End the watch; afterwards it cannot cancel the task any more. Raises CancelledError if the task is cancelled meanwhile."""
        self._timer.cancel()
        if self._watcher is not None:
            await cancel_and_wait((self._watcher,))

    def absorb(self) -> bool:
        """Undo this watch's cancellation of the task. True when no other cancellation is pending, so that the task may end normally."""
        return self.is_gone and self._target.uncancel() <= self._baseline
