"""Follows a journal as it grows: yields what all workers write from now on, at most one poll later. Blocking; sleeps between polls."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from anabranch.journal.reader import EVERYTHING, Filter
from anabranch.journal.record import Head, RecordError, check, read_head
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
            for raw in _skip(segment, done) if segment.is_closed else _new_lines(segment.path, done):
                done += len(raw)
                line = raw[:-1]
                try:
                    check(line)
                    head = read_head(line)
                except RecordError:
                    continue
                if self._where.matches(head):
                    yield head, line
        except FileNotFoundError:
            pass  # it was compressed just now: the next poll lists its new form
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


def _new_lines(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        yield from _whole(file)


def _whole(file: IO[bytes]) -> Iterator[bytes]:
    for raw in file:
        if raw[-1:] != b"\n":
            return
        yield raw


def _skip(segment: Segment, offset: int) -> Iterator[bytes]:
    position = 0
    for raw in read_lines(segment):
        position += len(raw)
        if position > offset:
            yield raw
