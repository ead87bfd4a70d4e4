"""Notices that the client of a running request went away, and then cancels the request's task. Knows nothing of what the task does.

uvicorn cancels nothing when a client goes: it only hands `http.disconnect` to whoever asks. Most requests are over before anybody would
ask, so the asking begins late, from a timer. uvicorn's own `receive` belongs to an object that knows whether its client has gone: that is
looked at from the timer again and again, for half a microsecond each time. Any other `receive` gets a task that waits on it.
"""

import asyncio
from typing import Final

from starlette.types import Receive

WATCH_AFTER_S: Final = 0.02
"""A timer costs half a microsecond, a task twenty: only requests that still run after this time are watched."""


class DisconnectWatch:
    """Cancels the task that made it when the client goes. `stop()` must be awaited, whatever happened.

    `is_gone`: the cancellation that arrives (or has arrived) is ours and not somebody else's.
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
        self._timer = loop.call_later(after_s, self._look)
        self.is_gone = False

    def _look(self) -> None:
        # The body has been read by now, or nobody wants it: all that can still come is the disconnect.
        is_gone = getattr(getattr(self._receive, "__self__", None), "disconnected", None)
        if is_gone is False:
            self._timer = self._loop.call_later(self._after_s, self._look)
        elif is_gone is True:
            self._leave()
        else:
            self._watcher = self._loop.create_task(self._watch(), name="anabranch-disconnect")

    def _leave(self) -> None:
        self.is_gone = True
        self._target.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # noqa: ASYNC110 - `receive` is what waits
            # The rest of a body that nobody wants. A `receive` that repeats itself instead of waiting must not keep the loop to itself.
            await asyncio.sleep(0)
        self._leave()

    async def stop(self) -> None:
        """End the watch. After this no cancellation of ours can come. Raises CancelledError when the task is cancelled meanwhile."""
        self._timer.cancel()
        if self._watcher is not None:
            await self._end(self._watcher)

    async def _end(self, watcher: asyncio.Task[None]) -> None:
        watcher.cancel()
        interruption: asyncio.CancelledError | None = None
        while not watcher.done():
            try:
                await asyncio.wait((watcher,))
            except asyncio.CancelledError as error:
                interruption = error
        if not watcher.cancelled():
            watcher.exception()  # a server whose receive() fails cannot be watched; that is no fault of the request
        if interruption is not None:
            raise interruption

    def absorb(self) -> bool:
        """Take our cancellation back from the task. True when no other one is pending, so that the task may end in peace."""
        return self.is_gone and self._target.uncancel() <= self._baseline
