"""The writer: one task that takes what is queued and puts it on the disk in groups, one append and one fsync for many records.

It goes on for ever: when the disk fails it says so, keeps the relaxed records it has, refuses the required ones, and tries again, less and less
often, until writing works. Knows lines and times; nothing of what is in a record, and nothing of closed segments.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final

from anabranch.config.journal import Journal as Config
from anabranch.config.units import format_size
from anabranch.errors import JournalError, JournalFull
from anabranch.journal.batch import Batch, Unmade
from anabranch.journal.counters import JournalCounters
from anabranch.journal.disk import Appender, Disk
from anabranch.journal.queue import Entry, Queue
from anabranch.journal.segment import PLAIN, SegmentName, Summary

logger = logging.getLogger("anabranch.journal")

_GROUP_BYTES: Final = 8 * 1024 * 1024
"""Most that one commit writes."""
_EAGER_BYTES: Final = 1024 * 1024
"""So much is written at once, though the flush interval is not over."""
_ROOM_CHECK_S: Final = 1.0
_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 5.0
_PROBE: Final = b"\n" * 4096
# Clocks are corrected by small steps all the time; one that goes back further begins a new segment, so that a segment's times are in order.
_CLOCK_SLACK: Final = timedelta(seconds=1)
_UNAVAILABLE: Final = "the response could not be recorded; nothing can be written at the moment"

Closed = Callable[[Path, Summary | None], None]


class _Open:
    """The segment that is written. `durable_bytes`: what is on the disk of it."""

    __slots__ = ("appender", "began", "durable_bytes", "first", "last", "records")

    def __init__(self, appender: Appender, began: float, time: datetime) -> None:
        self.appender = appender
        self.began = began
        self.durable_bytes = 0
        self.records = 0
        self.first = time
        self.last = time

    def summary(self) -> Summary:
        return Summary(records=self.records, size_bytes=self.durable_bytes, first=self.first, last=self.last)


class Writer:
    """`offer`, `put` and `commit` take a record's line, `defer` what one is made of; `run` is the task's body and ends after `close`.

    `on_closed`: told of each segment that will not be written any more, with its summary (None: what is in it is not known for sure).
    `clock`: the loop's time.
    """

    def __init__(
        self,
        disk: Disk,
        config: Config,
        counters: JournalCounters,
        *,
        on_closed: Closed,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._disk = disk
        self._config = config
        self._counters = counters
        self._on_closed = on_closed
        self._clock = clock
        self._queue = self.queue = Queue(max_records=config.queue_records, max_bytes=config.queue_size)
        self._batch = Batch(self._offer_together, self._lose)
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()
        self._open: _Open | None = None
        self._sequence = 0
        self._is_prepared = False
        self._is_closing = False
        self._room_checked = -_ROOM_CHECK_S
        self._began = -inf
        """When the last group's writing began: the next one's begins a flush interval later, whatever came in between."""
        self._backoff_s = _FIRST_BACKOFF_S

    # ------------------------------------------------------------------------------------------------------- taking

    def defer(self, unmade: Unmade, size_bytes: int) -> None:
        """Take a relaxed record that is yet to be made, at the latest when the next group is written. `size_bytes`: about what it holds."""
        self._batch.add(unmade, size_bytes)
        if self._is_closing:
            self._batch.make()
        elif not self._arrived.is_set():
            self._arrived.set()

    def _offer_together(self, lines: bytes, times: list[datetime]) -> None:
        """Queue lines as one entry, or each for itself where there is no room for all."""
        if not self._is_closing and self._queue.add(Entry(lines, min(times), len(times), max(times))):
            self._notice()
            return
        for line, time in zip(lines.splitlines(keepends=True), times, strict=True):
            self.offer(line, time)

    def _lose(self, records: int) -> None:
        self._counters.dropped += records

    def offer(self, line: bytes, time: datetime) -> bool:
        """Queue a relaxed record if there is room. Otherwise it is dropped and counted. Says whether it is queued."""
        if self._is_closing or not self._queue.add(Entry(line, time)):
            self._counters.dropped += 1
            return False
        self._notice()
        return True

    async def put(self, line: bytes, time: datetime, deadline: float) -> bool:
        """The same, but wait for room until `deadline` (loop time), unless nothing can be written at the moment."""
        if self._counters.trouble is not None or self._is_closing:
            return self.offer(line, time)
        try:
            await self._queue.add_in_turn(Entry(line, time), deadline)
        except JournalFull:
            self._counters.dropped += 1
            return False
        except asyncio.CancelledError:
            self._counters.dropped += 1
            raise
        self._notice()
        return True

    async def commit(self, line: bytes, time: datetime, deadline: float) -> None:
        """Return when the record is on the disk. Raises JournalError when it is not by `deadline` (loop time), or cannot be.

        Cancellation: the record is written all the same, once it is queued.
        """
        try:
            await self._commit(line, time, deadline)
        except JournalError:
            self._counters.refused += 1
            raise

    async def _commit(self, line: bytes, time: datetime, deadline: float) -> None:
        if self._counters.trouble is not None or self._is_closing:
            raise JournalError(_UNAVAILABLE, retry_after_s=max(1.0, self._backoff_s))
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = Entry(line, time, committed=committed)
        await self._queue.add_in_turn(entry, deadline)
        self._notice()
        try:
            async with asyncio.timeout_at(deadline):
                await committed
        except TimeoutError:
            entry.is_void = True
            raise JournalError("the response was not recorded in time") from None

    def _notice(self) -> None:
        if not self._arrived.is_set():
            self._arrived.set()
        if (self._queue.required or self._queue.size_bytes >= _EAGER_BYTES) and not self._hurry.is_set():
            self._hurry.set()

    def close(self) -> None:
        """Take no more; `run` ends when everything queued is on the disk, or cannot be put there."""
        self._batch.make()
        self._is_closing = True
        self._arrived.set()
        self._hurry.set()

    # ------------------------------------------------------------------------------------------------------ writing

    async def run(self) -> None:
        """Write until `close`. Whatever fails on the way is trouble that it tries to get over; it raises nothing."""
        while True:
            await self._due()
            self._batch.make()
            if self._is_closing and not len(self._queue):
                break
            try:
                if len(self._queue):
                    await self._write()
                elif self._counters.trouble is not None:
                    await self._probe()
                elif self._is_too_old():
                    await self._close_segment()
            except Exception as error:
                if not isinstance(error, OSError):
                    logger.exception("the journal's writer failed unexpectedly")
                self._failed(error)
                if self._is_closing:
                    break
                await self._pause()
            else:
                self._works()
        self._give_up_the_rest()
        with suppress(OSError):
            await self._close_segment()

    async def _due(self) -> None:
        """Return when there is something to do: records whose time has come, an old segment to close, or the end."""
        if not self._has_records():
            self._arrived.clear()
            if self._is_closing or self._counters.trouble is not None:
                return
            await self._wait(self._arrived, None if self._open is None else self._open.began + self._config.segment_age_s)
            if not self._has_records():
                return
        if self._queue.required or self._is_closing or self._queue.size_bytes >= _EAGER_BYTES:
            # Whatever else gets ready in this turn of the loop comes along.
            await asyncio.sleep(0)
            return
        due = self._began + self._config.flush_interval_s
        if due > self._clock():
            self._hurry.clear()
            await self._wait(self._hurry, due)

    def _has_records(self) -> bool:
        return len(self._queue) > 0 or len(self._batch) > 0

    async def _wait(self, event: asyncio.Event, until: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await event.wait()

    async def _write(self) -> None:
        """One group. Raises OSError when it is not on the disk; then the relaxed records of it are queued again."""
        group = self._queue.take(_GROUP_BYTES)
        if not group:
            return
        self._began = self._clock()
        try:
            data = b"".join([entry.line for entry in group])
            await self._append(group, data)
        except Exception:
            await self._abandon_segment()
            kept = [entry for entry in group if entry.committed is None]
            refused = [entry for entry in group if entry.committed is not None]
            self._queue.put_back(kept)
            _refuse(refused)
            self._queue.release(len(refused), sum(len(entry.line) for entry in refused))
            raise
        self._counters.commits += 1
        records = sum(entry.records for entry in group)
        self._counters.written += records
        self._counters.written_bytes += len(data)
        for entry in group:
            if entry.committed is not None and not entry.committed.done():
                entry.committed.set_result(None)
        self._queue.release(records, len(data))
        if self._open is not None and (self._open.durable_bytes >= self._config.segment_size or self._is_too_old()):
            await self._close_segment()

    async def _append(self, group: list[Entry], data: bytes) -> None:
        first, last = min(entry.time for entry in group), max(entry.last or entry.time for entry in group)
        if self._open is not None and first < self._open.last - _CLOCK_SLACK:
            await self._close_segment()
        segment = await self._ready(first)
        await segment.appender.append(data)
        await segment.appender.sync()
        segment.durable_bytes += len(data)
        segment.records += sum(entry.records for entry in group)
        segment.first = min(first, segment.first)
        segment.last = max(last, segment.last)

    async def _ready(self, time: datetime) -> _Open:
        """The open segment, begun when there is none. Raises OSError, also when the file system has too little room."""
        if not self._is_prepared:
            await self._disk.prepare()
            self._is_prepared = True
        now = self._clock()
        if self._config.min_free and now - self._room_checked >= _ROOM_CHECK_S:
            free = await self._disk.free_bytes()
            if free < self._config.min_free:
                raise OSError(errno.ENOSPC, f"only {format_size(free)} are free, and min_free is {format_size(self._config.min_free)}")
            self._room_checked = now
        if self._open is None:
            self._sequence += 1
            name = SegmentName(time, self._disk.worker, self._sequence)
            self._open = _Open(await self._disk.create(f"{name}{PLAIN}"), now, time)
            self._counters.segments += 1
        return self._open

    def _is_too_old(self) -> bool:
        return self._open is not None and self._clock() >= self._open.began + self._config.segment_age_s

    async def _close_segment(self) -> None:
        segment, self._open = self._open, None
        if segment is None:
            return
        await segment.appender.close()
        if segment.records:
            self._on_closed(segment.appender.path, segment.summary())
        else:
            await self._disk.run(os.unlink, segment.appender.path)

    # ------------------------------------------------------------------------------------------------------ trouble

    async def _probe(self) -> None:
        """Find out whether writing works, with nothing to write. Raises OSError."""
        try:
            segment = await self._ready(datetime.now(UTC))
            await segment.appender.append(_PROBE)
            await segment.appender.sync()
            await segment.appender.cut(0)
        except OSError:
            await self._abandon_segment()
            raise

    async def _abandon_segment(self) -> None:
        """Nothing more goes into this segment, and what is not known to be on the disk is cut off: nothing may be there twice."""
        segment, self._open = self._open, None
        self._is_prepared = False
        self._room_checked = -_ROOM_CHECK_S
        if segment is None:
            return
        is_cut = True
        try:
            await segment.appender.cut(segment.durable_bytes)
        except OSError:
            is_cut = False
        with suppress(OSError):
            await segment.appender.close()
        if segment.records or not is_cut:
            self._on_closed(segment.appender.path, segment.summary() if is_cut else None)
        else:
            with suppress(OSError):
                await self._disk.run(os.unlink, segment.appender.path)

    def _failed(self, error: Exception) -> None:
        self._counters.failures += 1
        reason = _sentence(error)
        if self._counters.trouble is None:
            logger.error("the journal in %s cannot be written: %s; required endpoints answer 503 until it can", self._disk.folder, reason)
        if self._counters.trouble != reason:
            self._counters.trouble = reason
        _refuse(self._queue.void_required())
        self._queue.refuse_waiting(_UNAVAILABLE)

    def _works(self) -> None:
        self._backoff_s = _FIRST_BACKOFF_S
        if self._counters.trouble is not None:
            self._counters.trouble = None
            logger.warning("the journal in %s can be written again; dropped so far: %d", self._disk.folder, self._counters.dropped)

    async def _pause(self) -> None:
        until = self._clock() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        while not self._is_closing and self._clock() < until:
            self._hurry.clear()
            await self._wait(self._hurry, until)

    def _give_up_the_rest(self) -> None:
        lost = self._queue.take(1 << 62)
        if lost:
            records = sum(entry.records for entry in lost)
            self._counters.dropped += sum(entry.records for entry in lost if entry.committed is None)
            _refuse([entry for entry in lost if entry.committed is not None])
            self._queue.release(records, sum(len(entry.line) for entry in lost))
            logger.error("the journal could not be written at the end: %d records are lost", records)
        self._queue.refuse_waiting(_UNAVAILABLE)


def _refuse(entries: list[Entry]) -> None:
    for entry in entries:
        if entry.committed is not None and not entry.committed.done():
            entry.committed.set_exception(JournalError(_UNAVAILABLE, retry_after_s=1.0))


def _sentence(error: Exception) -> str:
    """Why, for the operator. Without numbers that change, so that one trouble is one message."""
    if not isinstance(error, OSError):
        return "the writer failed unexpectedly"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "its file system has too little room"
        case errno.EROFS:
            return "its file system is read-only"
        case errno.ENOENT:
            return "its folder or segment has vanished"
        case errno.EACCES | errno.EPERM:
            return "the gateway may not write there"
        case _:
            return f"the disk failed: {error.strerror or error}"
