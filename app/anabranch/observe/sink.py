"""Writes log lines directly to a file descriptor, whole lines only.

A write to a terminal, a file or a pipe with room takes some microseconds, less than handing the line to a thread. A thread would also need
a queue, which grows when the reader is slow and loses lines in a crash. A reader that stops reading fills its pipe (64 KiB on Linux) and
then blocks the process: a log collector must keep reading. A reader that has gone costs nothing: its lines are counted as lost.
"""

import os


class LineSink:
    """Writes lines to `descriptor`, which stays open. `lost`: lines that could not be written. Never raises."""

    __slots__ = ("_descriptor", "lost")

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self.lost = 0

    def write(self, line: bytes) -> None:
        """Write `line`, which has no line end, and a line end."""
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1
