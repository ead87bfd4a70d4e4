"""Checks that a block of test code leaks no task and no socket."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


def open_sockets() -> set[str]:
    """The open internet sockets of this process, by inode. The socket pairs that loops use to wake themselves do not count."""
    found: set[str] = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    if sock.family in {socket.AF_INET, socket.AF_INET6}:
                        found.add(target)
        except OSError:
            continue  # closed meanwhile, like the descriptor of this directory listing
    return found


@asynccontextmanager
async def no_leaks(within_s: float = 20.0) -> AsyncIterator[None]:
    """Fails when the body leaves new tasks or sockets. Waits up to `within_s`, because loops close sockets a few turns late."""
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    yield
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    # Fixtures are set up and torn down in their own tasks.
    while (left := (open_sockets() - sockets, asyncio.all_tasks() - tasks - {asyncio.current_task()})) != (set(), set()):
        assert loop.time() < until, f"left behind: {left}"
        await asyncio.sleep(0.005)
