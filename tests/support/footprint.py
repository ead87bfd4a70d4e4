"""Measures the resources that this process uses, to show that a run leaks nothing."""

import asyncio
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.support.leaks import open_sockets

MIB: Final = 1024 * 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """`rss_bytes`: resident memory. `descriptors`, `sockets`: open ones. `tasks`: of the running loop."""

    rss_bytes: int
    descriptors: int
    sockets: int
    tasks: int

    @classmethod
    def now(cls) -> Self:
        """The footprint of this process, after a garbage collection."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return cls(rss_bytes=pages * _PAGE, descriptors=descriptors, sockets=len(open_sockets()), tasks=len(asyncio.all_tasks()))

    @classmethod
    async def settled(cls, is_settled: Callable[["Footprint"], bool], within_s: float = 20.0) -> "Footprint":
        """The first footprint for which `is_settled` holds, or the last one taken: loops close sockets a few turns late."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not is_settled(found := cls.now()) and loop.time() < until:
            await asyncio.sleep(0.02)
        return found
