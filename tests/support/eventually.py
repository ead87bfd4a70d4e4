"""Waits for what must come, however busy the machine is. What must not come is not for here."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 20.0


async def eventually(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition()` holds; it is looked at every few milliseconds. Raises TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
