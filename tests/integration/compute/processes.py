"""Looks up processes in the operating system."""

import asyncio
from pathlib import Path

PROC = Path("/proc")


def is_alive(pid: int) -> bool:
    """Whether a process is running. A zombie is not."""
    try:
        return state_of(pid) not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def state_of(pid: int) -> str:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def children_of(pid: int) -> list[int]:
    """Direct children, zombies too."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def descendants_of(pid: int) -> list[int]:
    found = children_of(pid)
    for child in list(found):
        found += descendants_of(child)
    return found


def open_files() -> int:
    return len(list((PROC / "self" / "fd").iterdir()))


async def until_gone(pids: list[int], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while any(is_alive(pid) for pid in pids):
            await asyncio.sleep(0.01)
