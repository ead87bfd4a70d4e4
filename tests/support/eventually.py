"""Waits for a condition that must become true, however busy the machine is. Unsuitable for asserting that something never happens."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 20.0


async def eventually(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition()` holds; checked every 5 ms. Raises TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
