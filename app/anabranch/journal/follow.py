"""Follows a journal as it grows: yields what all workers write from now on, at most one poll later. Blocking; sleeps between polls."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from anabranch.journal.filter import EVERYTHING, Filter
from anabranch.journal.lines import proven
from anabranch.journal.record import Head
from anabranch.journal.segment import Segment, SegmentDamaged, SegmentName, listed, read_lines

_BLOCK_BYTES: Final = 1024 * 1024


class Follower:
    """Starts at the end of everything in the folder. `poll` yields what was written since the last poll."""

    def __init__(self, folder: Path, where: Filter = EVERYTHING) -> None:
        self._folder = folder
        self._where = where
        self._read: dict[SegmentName, int | None] = {}
        """Bytes of each segment's lines that have been read; None for one that was closed at the start, or is read to its end."""
        for segment in listed(folder):
            self._read[segment.name] = None if segment.is_closed else _whole_bytes(segment)

    def poll(self) -> Iterator[tuple[Head, bytes]]:
        """Yield the new lines, verified, segment by segment. Raises OSError when the folder cannot be read."""
        segments = listed(self._folder)
        for segment in segments:
            done = self._read.get(segment.name, 0)
            if done is not None:
                yield from self._unread(segment, done)
        present = {segment.name for segment in segments}
        self._read = {name: done for name, done in self._read.items() if name in present}

    def _unread(self, segment: Segment, done: int) -> Iterator[tuple[Head, bytes]]:
        try:
            for line in proven(read_lines(segment, done)):
                if line.is_torn:
                    break
                done += len(line.raw)
                if line.head is not None and self._where.matches(line.head):
                    yield line.head, line.content
        except SegmentDamaged:
            done = 0
        self._read[segment.name] = None if segment.is_closed else done


def follow(follower: Follower, *, sleep: Callable[[float], None], every_s: float = 0.25) -> Iterator[tuple[Head, bytes]]:
    """Yield everything new, forever. `every_s`: between two polls."""
    while True:
        yield from follower.poll()
        sleep(every_s)


def _whole_bytes(segment: Segment) -> int:
    """Size of the complete lines in a plain segment. The last line may be half written."""
    try:
        with segment.path.open("rb") as file:
            position = file.seek(0, 2)
            while position:
                start = max(0, position - _BLOCK_BYTES)
                file.seek(start)
                found = file.read(position - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                position = start
    except FileNotFoundError:
        pass
    return 0
