"""Records that grow while a test runs, and those who wait until they hold something. Knows nothing of what is recorded."""

import asyncio
from collections.abc import Callable
from typing import Final, Self

PATIENCE_S: Final = 20.0


class Record:
    """`until(condition)` waits for the record to hold something; whoever writes into it calls `changed`."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    async def until(self, condition: Callable[[Self], bool], within_s: float | None = PATIENCE_S) -> None:
        """Wait until `condition(self)` holds; looked at whenever the record changes. Raises TimeoutError after `within_s` (None: never)."""
        async with asyncio.timeout(within_s):
            while not condition(self):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    def changed(self) -> None:
        """For those who write: the record changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Answers(Record):
    """How many answers a client has had, whole."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def add(self) -> None:
        """One more came."""
        self.count += 1
        self.changed()
