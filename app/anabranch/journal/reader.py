"""Reads a journal's folder: the records of all workers merged by time, in constant memory, all of them or those that match a filter.

Safe while others write: an incomplete line at the end of an open segment is skipped silently. Damaged lines are skipped and counted.
Independent of the writer. Blocking: read in a thread from an event loop.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from anabranch.journal.record import Head, Record, RecordError, check, read_head, read_record
from anabranch.journal.segment import Segment, SegmentDamaged, listed, read_lines

# An id contains the record's time in milliseconds, but the two are taken from the clock one after the other.
_ID_SLACK: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which records to read. `since` is inclusive, `until` exclusive. Empty sets and None match everything.

    `statuses`: exact ones such as 404, and classes: 4 matches 400 to 499. `slower_than_ms`: took at least this long.
    """

    endpoints: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    statuses: frozenset[int] = frozenset()
    is_incomplete: bool = False
    slower_than_ms: float | None = None

    def matches(self, head: Head) -> bool:
        return not (
            (self.since is not None and head.time < self.since)
            or (self.until is not None and head.time >= self.until)
            or (self.endpoints and head.endpoint not in self.endpoints)
            or (self.statuses and head.status not in self.statuses and head.status // 100 not in self.statuses)
            or (self.is_incomplete and head.complete)
            or (self.slower_than_ms is not None and head.elapsed_ms < self.slower_than_ms)
        )

    def may_be_in(self, segment: Segment) -> bool:
        """Whether the segment may contain records between `since` and `until`. An open segment may contain any."""
        summary = segment.summary
        if summary is None:
            return True
        return not ((self.since is not None and summary.last < self.since) or (self.until is not None and summary.first >= self.until))


EVERYTHING: Final = Filter()


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

    A segment is open only while the merge is within its time, so that thousands of them need few open files. Where a worker's clock went
    back, its records keep the order in which they were written.
    """
    tally = Tally() if tally is None else tally
    waiting = list(reversed(segments))
    streams: list[tuple[datetime, int, Head, bytes, Iterator[tuple[Head, bytes]]]] = []
    opened = 0
    while waiting or streams:
        while waiting and (not streams or waiting[-1].starts <= streams[0][0]):
            stream = of_segment(waiting.pop(), where, tally)
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


def of_segment(segment: Segment, where: Filter = EVERYTHING, tally: Tally | None = None) -> Iterator[tuple[Head, bytes]]:
    """Yield the verified lines of one segment, in the order in which they were written."""
    tally = Tally() if tally is None else tally
    matches = None if where == EVERYTHING else where.matches
    try:
        for raw in read_lines(segment):
            line = raw[:-1]
            if raw[-1:] != b"\n":
                tally.damaged += segment.is_closed
                break
            try:
                check(line)
                head = read_head(line)
            except RecordError:
                tally.damaged += 1
                continue
            if matches is None or matches(head):
                tally.records += 1
                yield head, line
    except (SegmentDamaged, OSError) as error:
        tally.note_unreadable(segment, str(error))
    tally.bytes_read += segment.size_bytes


def find(folder: Path, record_id: str) -> Record | None:
    """Find the record with this id, or None. Reads the segments of its time first. Raises OSError when the folder cannot be read."""
    where = EVERYTHING
    try:
        uuid = UUID(record_id)
    except ValueError:
        return None
    if uuid.version == 7:
        time = datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
        where = Filter(since=time - _ID_SLACK, until=time + _ID_SLACK)
    wanted = str(uuid)
    for segment in sorted(listed(folder), key=where.may_be_in, reverse=True):
        for head, line in of_segment(segment):
            if head.id == wanted:
                return read_record(line)
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
