"""Proof that a piece of test left nothing behind: no task, no socket."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


def open_sockets() -> set[str]:
    """The internet sockets that this process has open, by inode. Pairs that loops use to wake themselves do not count."""
    found: set[str] = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    if sock.family in {socket.AF_INET, socket.AF_INET6}:
                        found.add(target)
        except OSError:
            continue  # closed meanwhile, as the one of this loop itself
    return found


@asynccontextmanager
async def no_leaks(within_s: float = 20.0) -> AsyncIterator[None]:
    """Fails when the body leaves tasks or sockets that were not there before. Loops close sockets a few turns late: waits for that."""
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    # Fixtures are set up and torn down in tasks of their own.
    while (left := (open_sockets() - sockets, asyncio.all_tasks() - tasks - {asyncio.current_task()})) != (set(), set()):
        assert loop.time() < until, f"left behind: {left}"
        await asyncio.sleep(0.005)
