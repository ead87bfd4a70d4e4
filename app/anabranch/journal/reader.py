"""Reads a journal's folder: the records of all workers merged by time, in constant memory, all of them or those that match a filter.

Safe while others write: an incomplete line at the end of an open segment is skipped silently. Damaged lines are skipped and counted.
Independent of the writer. Blocking: read in a thread from an event loop.
"""

import contextlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from anabranch.journal.filter import EVERYTHING, Filter
from anabranch.journal.lines import proven
from anabranch.journal.record import Head, Record, RecordError, read_record
from anabranch.journal.segment import Segment, SegmentDamaged, listed, read_lines

# An id contains the record's time in milliseconds, but the two are taken from the clock one after the other.
_ID_SLACK: Final = timedelta(seconds=2)
_LATE: Final = timedelta(seconds=0.2)
"""How much later than its time a record may be written, or the segment that it begins be created, and still be put where it belongs."""
_MOST_HELD: Final = 256
"""Lines of a segment that are held back to be put in order."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was encountered while reading. `damaged`: lines that fail their checksum. `unreadable`: segments that could not be read to their
    end, and why. `bytes_read`: size of the segment files that are finished, as stored on disk."""

    records: int = 0
    damaged: int = 0
    bytes_read: int = 0
    unreadable: dict[str, str] | None = None

    def note_unreadable(self, segment: Segment, reason: str) -> None:
        if self.unreadable is None:
            self.unreadable = {}
        self.unreadable[segment.path.name] = reason


def records(folder: Path, where: Filter = EVERYTHING, tally: Tally | None = None) -> Iterator[Record]:
    """Yield the records of `folder` that match `where`, by time. Raises OSError when the folder cannot be read."""
    tally = Tally() if tally is None else tally
    for _, line in lines(folder, where, tally):
        try:
            yield read_record(line)
        except RecordError:
            tally.damaged += 1


def lines(folder: Path, where: Filter = EVERYTHING, tally: Tally | None = None) -> Iterator[tuple[Head, bytes]]:
    """Like `records`, but yields verified lines (without line feed) with their heads. Cheaper when whole records are not needed."""
    return merged([segment for segment in listed(folder) if where.may_be_in(segment)], where, tally)


def merged(segments: list[Segment], where: Filter = EVERYTHING, tally: Tally | None = None) -> Iterator[tuple[Head, bytes]]:
    """Yield the lines of `segments` (the earliest first), by time.

    A segment is open only while the merge is near its time, so that thousands of them need few open files. Where a worker's clock went
    back, its records keep the order in which they were written.
    """
    tally = Tally() if tally is None else tally
    waiting = list(reversed(segments))
    streams: list[tuple[datetime, int, Head, bytes, Iterator[tuple[Head, bytes]]]] = []
    opened = 0
    while waiting or streams:
        while waiting and (not streams or waiting[-1].starts - _LATE <= streams[0][0]):
            stream = _by_time(of_segment(waiting.pop(), where, tally))
            opened += 1
            if (item := next(stream, None)) is not None:
                heapq.heappush(streams, (item[0].time, opened, *item, stream))
        if not streams:
            continue
        key, order, head, line, stream = streams[0]
        yield head, line
        item = next(stream, None)
        if item is None:
            heapq.heappop(streams)
        else:
            heapq.heapreplace(streams, (max(key, item[0].time), order, *item, stream))


def _by_time(lines: Iterator[tuple[Head, bytes]]) -> Iterator[tuple[Head, bytes]]:
    """The lines of a segment by time. A record gets its time when its response is ready, and is written when that has been sent: those of
    requests that end at nearly the same time may be written in another order."""
    held: list[tuple[datetime, int, Head, bytes]] = []
    newest: datetime | None = None
    for number, (head, line) in enumerate(lines):
        if newest is None or head.time < newest - _LATE:  # the beginning, or the clock went back
            yield from _released(held, 0)
            newest = head.time
        newest = max(newest, head.time)
        heapq.heappush(held, (head.time, number, head, line))
        while held[0][0] < newest - _LATE:
            yield heapq.heappop(held)[2:]
        yield from _released(held, _MOST_HELD)
    yield from _released(held, 0)


def _released(held: list[tuple[datetime, int, Head, bytes]], most: int) -> Iterator[tuple[Head, bytes]]:
    """Take the earliest lines out of a heap until at most this many are left in it."""
    while len(held) > most:
        yield heapq.heappop(held)[2:]


def of_segment(segment: Segment, where: Filter = EVERYTHING, tally: Tally | None = None) -> Iterator[tuple[Head, bytes]]:
    """Yield the verified lines of one segment, in the order in which they were written."""
    tally = Tally() if tally is None else tally
    matches = None if where == EVERYTHING else where.matches
    try:
        for line in proven(read_lines(segment)):
            head = line.head
            if head is None:
                # Of an open segment, the last line may be half written.
                tally.damaged += segment.is_closed or not line.is_torn
            elif matches is None or matches(head):
                tally.records += 1
                yield head, line.content
    except (SegmentDamaged, OSError) as error:
        tally.note_unreadable(segment, str(error))
    tally.bytes_read += segment.size_bytes


def find(folder: Path, wanted: str) -> Record | None:
    """The record with this id, else the record of the request with this X-Request-Id (the latest, if there are several); None without either.

    The segments of the time that an id tells are read first. Raises OSError when the folder cannot be read.
    """
    near = EVERYTHING
    with contextlib.suppress(ValueError):
        uuid = UUID(wanted)
        if uuid.version == 7:
            time = datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
            near = Filter(since=time - _ID_SLACK, until=time + _ID_SLACK)
            wanted = str(uuid)
    segments = listed(folder)
    segments.reverse()
    segments.sort(key=near.may_be_in, reverse=True)
    for segment in segments:
        of_request = None
        for head, line in of_segment(segment):
            if head.id == wanted:
                return read_record(line)
            if head.request.id == wanted:
                of_request = line
        if of_request is not None:
            return read_record(of_request)
    return None


def last(folder: Path, count: int, where: Filter = EVERYTHING, tally: Tally | None = None) -> list[tuple[Head, bytes]]:
    """Return the last `count` records that match `where`, by time. Starts with the latest segments and reads only as many as needed."""
    found: list[tuple[datetime, int, Head, bytes]] = []
    number = 0
    for segment in reversed(listed(folder)):
        if count < 1 or (len(found) == count and segment.summary is not None and segment.summary.last < found[0][0]):
            continue
        if where.may_be_in(segment):
            for head, line in of_segment(segment, where, tally):
                number += 1
                entry = (head.time, number, head, line)
                if len(found) < count:
                    heapq.heappush(found, entry)
                else:
                    heapq.heappushpop(found, entry)
    return [(head, line) for _, _, head, line in sorted(found, key=lambda entry: entry[:2])]
