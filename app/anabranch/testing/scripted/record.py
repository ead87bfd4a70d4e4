"""Records that change during a test, and waiting for a condition on them."""

import asyncio
from collections.abc import Callable
from typing import Final, Self

PATIENCE_S: Final = 20.0


class Record:
    """`until(condition)` waits for a condition on the record; every writer calls `changed`."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    async def until(self, condition: Callable[[Self], bool], within_s: float | None = PATIENCE_S) -> None:
        """Wait until `condition(self)` holds; checked whenever the record changes. Raises TimeoutError after `within_s` (None: never)."""
        async with asyncio.timeout(within_s):
            while not condition(self):
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    def changed(self) -> None:
        """For writers: wake the waiters, because the record changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Answers(Record):
    """Counts the complete responses that a client has received."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def add(self) -> None:
        """Count one more response."""
        self.count += 1
        self.changed()
