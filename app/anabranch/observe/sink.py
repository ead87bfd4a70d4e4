"""Where lines of the log go: straight to a file descriptor, whole lines only.

A write to a terminal, file or pipe with room takes some microseconds, less than handing the line to a thread would; what a thread would add
is a queue that grows when the reader is slow, and lines lost at a crash. A reader that stops for good fills its pipe (64 KiB on Linux) and
then holds the process up: a log collector must read. One that has gone away costs nothing: the lines are counted as lost.
"""

import os


class LineSink:
    """Writes lines to `descriptor`, which stays open. `lost`: lines that could not be written. Never raises."""

    __slots__ = ("_descriptor", "lost")

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self.lost = 0

    def write(self, line: bytes) -> None:
        """Write `line`, which has no line end."""
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1
