"""How late the event loop runs its timers: the first sign that something blocks the loop or that the CPU core is saturated."""

import asyncio
from typing import Final, Self

from anabranch.observe.counting import Durations

_EVERY_S: Final = 0.25


class LoopLag:
    """An async context manager. While it is open, a timer fires four times a second and records how late it was.

    `durations`: all observations. `last_s`: the latest. Cost: some microseconds a second.
    """

    __slots__ = ("_due", "_loop", "_timer", "durations", "last_s")

    def __init__(self) -> None:
        self.durations = Durations()
        self.last_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        assert self._loop is not None
        self._due = self._loop.time() + _EVERY_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        assert self._loop is not None
        self.last_s = max(self._loop.time() - self._due, 0.0)
        self.durations.add(self.last_s)
        self._wait()
