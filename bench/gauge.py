"""Reads the CPU time and the peak resident memory of a process and its children from /proc."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """`cpu_s`: user and system time between two readings. `waited_s`: how long the root's main thread was ready to run but
    waited for a core. `peak_bytes`: peak resident memory of the same interval, summed over the processes."""

    cpu_s: float
    waited_s: float
    peak_bytes: int


def parse_stat(text: str) -> tuple[int, float]:
    """Parent and CPU seconds (user and system, including waited-for children) of one /proc/PID/stat. The process name may contain any
    text."""
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), sum(map(int, fields[11:15])) * _TICK_S


def tree(pid: int) -> dict[int, float]:
    """`pid` and all its live descendants, each with its CPU seconds. Empty when `pid` has ended."""
    parents: dict[int, int] = {}
    cpu: dict[int, float] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent, seconds = parse_stat((entry / "stat").read_text())
            except (OSError, ValueError):
                continue  # it has ended meanwhile
            parents[int(entry.name)] = parent
            cpu[int(entry.name)] = seconds
    members = {pid} & cpu.keys()
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return {member: cpu[member] for member in members}


class Gauge:
    """Two readings of one process tree. `pid`: its root."""

    __slots__ = ("_before", "_pid", "_waited_s")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: dict[int, float] = {}
        self._waited_s = 0.0

    def begin(self) -> None:
        """Take the first reading and reset the memory peak to the current use, if the kernel permits."""
        self._before = tree(self._pid)
        self._waited_s = waited_s(self._pid)
        for member in self._before:
            try:
                (_PROC / str(member) / "clear_refs").write_text("5")
            except OSError:
                continue  # the peak then covers the whole life of the process

    def end(self) -> Usage:
        """Take the second reading. Children started meanwhile count from their start."""
        now = tree(self._pid)
        return Usage(
            cpu_s=sum(now.values()) - sum(self._before.values()),
            waited_s=waited_s(self._pid) - self._waited_s,
            peak_bytes=sum(map(peak_bytes, now)),
        )


def peak_bytes(pid: int) -> int:
    """VmHWM of one process; 0 when it has ended."""
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def waited_s(pid: int) -> float:
    """Total time that the main thread of `pid` has waited for a core; 0 if the kernel does not report it."""
    try:
        return int((_PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def wait_until_idle(pid: int, patience_s: float) -> None:
    """Return when the tree of `pid` has used at most one clock tick within 0.1 s, or after `patience_s`."""
    give_up = time.monotonic() + patience_s
    used = sum(tree(pid).values())
    while time.monotonic() < give_up:
        time.sleep(0.1)
        before, used = used, sum(tree(pid).values())
        if used - before <= _TICK_S * 1.5:
            return
