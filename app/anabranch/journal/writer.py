"""The writer: one task that drains the queue to disk in groups, with one append and one fsync for many records.

A failure never ends it. When the disk fails, it logs that, keeps the relaxed records that are queued, rejects the required ones, and
retries at growing intervals until writing works. Handles lines and times only; the archive takes care of closed segments.
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
from anabranch.journal.batch import Batch, DeferredRecord
from anabranch.journal.counters import JournalCounters
from anabranch.journal.disk import Appender, Disk
from anabranch.journal.queue import Entry, Queue
from anabranch.journal.segment import PLAIN, SegmentName, Summary

logger = logging.getLogger("anabranch.journal")

_GROUP_BYTES: Final = 8 * 1024 * 1024
"""Upper bound of one commit."""
_EAGER_BYTES: Final = 1024 * 1024
"""This many queued bytes are written without waiting for the flush interval."""
_ROOM_CHECK_S: Final = 1.0
_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 5.0
_PROBE: Final = b"\n" * 4096
# Clocks are corrected in small steps all the time. One that goes back further begins a new segment: a segment's times are in order.
_CLOCK_SLACK: Final = timedelta(seconds=1)
_UNAVAILABLE: Final = "the response could not be recorded: the journal cannot be written at the moment"

Closed = Callable[[Path, Summary | None], None]


class _OpenSegment:
    """The segment that is being written. `durable_bytes`: how much of it is known to be on disk."""

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
    """`offer`, `put` and `commit` take an encoded line, `defer` a record to be encoded later. `run` is the task's body; it ends after
    `close`.

    `on_closed`: called with each segment that will not be written any more and its summary (None: its content is not known for certain).
    `clock`: returns the loop's time.
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
        self._batch = Batch(self._offer_batch, self._count_lost)
        self._arrived = asyncio.Event()
        self._flush_now = asyncio.Event()
        self._open: _OpenSegment | None = None
        self._sequence = 0
        self._is_prepared = False
        self._is_closing = False
        self._room_checked = -_ROOM_CHECK_S
        self._began = -inf
        """When writing the last group began. The next group begins one flush interval later, unless it is urgent."""
        self._backoff_s = _FIRST_BACKOFF_S

    # ---------------------------------------------------------------------------------------------------- accepting

    def defer(self, record: DeferredRecord, size_bytes: int) -> None:
        """Accept a relaxed record that is encoded later, at the latest for the next group. `size_bytes`: memory it holds, about."""
        self._batch.add(record, size_bytes)
        if self._is_closing:
            self._batch.encode()
        elif not self._arrived.is_set():
            self._arrived.set()

    def _offer_batch(self, lines: bytes, times: list[datetime]) -> None:
        """Enqueue lines as one entry, or one by one when there is no room for all."""
        if not self._is_closing and self._queue.add(Entry(lines, min(times), len(times), max(times))):
            self._wake()
            return
        for line, time in zip(lines.splitlines(keepends=True), times, strict=True):
            self.offer(line, time)

    def _count_lost(self, records: int) -> None:
        self._counters.dropped += records

    def offer(self, line: bytes, time: datetime) -> bool:
        """Enqueue a relaxed record if there is room; otherwise drop and count it. Returns whether it was enqueued."""
        if self._is_closing or not self._queue.add(Entry(line, time)):
            self._counters.dropped += 1
            return False
        self._wake()
        return True

    async def put(self, line: bytes, time: datetime, deadline: float) -> bool:
        """Like `offer`, but wait for room until `deadline` (loop time), unless the journal cannot be written or is closing."""
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
        self._wake()
        return True

    async def commit(self, line: bytes, time: datetime, deadline: float) -> None:
        """Return when the record is on disk. Raises JournalError when it is not by `deadline` (loop time), or cannot be written.

        Cancellation: a record that is already queued is written all the same.
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
        self._wake()
        try:
            async with asyncio.timeout_at(deadline):
                await committed
        except TimeoutError:
            entry.is_abandoned = True
            raise JournalError("the response could not be recorded in time") from None

    def _wake(self) -> None:
        if not self._arrived.is_set():
            self._arrived.set()
        if (self._queue.required or self._queue.size_bytes >= _EAGER_BYTES) and not self._flush_now.is_set():
            self._flush_now.set()

    def close(self) -> None:
        """Accept no more records. `run` ends when everything queued is on disk, or cannot be written."""
        self._batch.encode()
        self._is_closing = True
        self._arrived.set()
        self._flush_now.set()

    # ------------------------------------------------------------------------------------------------------ writing

    async def run(self) -> None:
        """Write until `close`. Failures are counted and retried; raises nothing."""
        while True:
            await self._wait_for_work()
            self._batch.encode()
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
                await self._back_off()
            else:
                self._succeeded()
        self._discard_rest()
        with suppress(OSError):
            await self._close_segment()

    async def _wait_for_work(self) -> None:
        """Return when there is something to do: records that are due, an old segment to close, a failed disk to probe, or `close`."""
        if not self._has_records():
            self._arrived.clear()
            if self._is_closing or self._counters.trouble is not None:
                return
            await self._wait(self._arrived, None if self._open is None else self._open.began + self._config.segment_age_s)
            if not self._has_records():
                return
        if self._queue.required or self._is_closing or self._queue.size_bytes >= _EAGER_BYTES:
            # Include whatever else becomes ready in this turn of the loop.
            await asyncio.sleep(0)
            return
        due = self._began + self._config.flush_interval_s
        if due > self._clock():
            self._flush_now.clear()
            await self._wait(self._flush_now, due)

    def _has_records(self) -> bool:
        return len(self._queue) > 0 or len(self._batch) > 0

    async def _wait(self, event: asyncio.Event, until: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await event.wait()

    async def _write(self) -> None:
        """Write one group. Raises OSError when that fails; the group's relaxed records are then queued again."""
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
            rejected = [entry for entry in group if entry.committed is not None]
            self._queue.put_back(kept)
            _reject(rejected)
            self._queue.release(len(rejected), sum(len(entry.line) for entry in rejected))
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
        segment = await self._segment(first)
        await segment.appender.append(data)
        await segment.appender.sync()
        segment.durable_bytes += len(data)
        segment.records += sum(entry.records for entry in group)
        segment.first = min(first, segment.first)
        segment.last = max(last, segment.last)

    async def _segment(self, time: datetime) -> _OpenSegment:
        """Return the open segment, created if there is none. Raises OSError, also when the file system has too little free space."""
        if not self._is_prepared:
            await self._disk.prepare()
            self._is_prepared = True
        now = self._clock()
        if self._config.min_free and now - self._room_checked >= _ROOM_CHECK_S:
            free = await self._disk.free_bytes()
            if free < self._config.min_free:
                raise OSError(errno.ENOSPC, f"{format_size(free)} free, less than min_free ({format_size(self._config.min_free)})")
            self._room_checked = now
        if self._open is None:
            self._sequence += 1
            name = SegmentName(time, self._disk.worker, self._sequence)
            self._open = _OpenSegment(await self._disk.create(f"{name}{PLAIN}"), now, time)
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

    # ----------------------------------------------------------------------------------------------------- failures

    async def _probe(self) -> None:
        """Test whether writing works when there is nothing to write. Raises OSError."""
        try:
            segment = await self._segment(datetime.now(UTC))
            await segment.appender.append(_PROBE)
            await segment.appender.sync()
            await segment.appender.truncate(0)
        except OSError:
            await self._abandon_segment()
            raise

    async def _abandon_segment(self) -> None:
        """Stop using the open segment, and cut off what is not known to be on disk: a record must not be there twice."""
        segment, self._open = self._open, None
        self._is_prepared = False
        self._room_checked = -_ROOM_CHECK_S
        if segment is None:
            return
        is_cut = True
        try:
            await segment.appender.truncate(segment.durable_bytes)
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
        reason = _reason(error)
        if self._counters.trouble is None:
            logger.error(
                "the journal in %s cannot be written: %s; endpoints with `durability: required` answer 503 until it can",
                self._disk.folder,
                reason,
            )
        if self._counters.trouble != reason:
            self._counters.trouble = reason
        _reject(self._queue.discard_required())
        self._queue.reject_waiting(_UNAVAILABLE)

    def _succeeded(self) -> None:
        self._backoff_s = _FIRST_BACKOFF_S
        if self._counters.trouble is not None:
            self._counters.trouble = None
            logger.warning("the journal in %s can be written again; records dropped so far: %d", self._disk.folder, self._counters.dropped)

    async def _back_off(self) -> None:
        until = self._clock() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        while not self._is_closing and self._clock() < until:
            self._flush_now.clear()
            await self._wait(self._flush_now, until)

    def _discard_rest(self) -> None:
        lost = self._queue.take(1 << 62)
        if lost:
            records = sum(entry.records for entry in lost)
            self._counters.dropped += sum(entry.records for entry in lost if entry.committed is None)
            _reject([entry for entry in lost if entry.committed is not None])
            self._queue.release(records, sum(len(entry.line) for entry in lost))
            logger.error("the journal could not be written during shutdown: %d records are lost", records)
        self._queue.reject_waiting(_UNAVAILABLE)


def _reject(entries: list[Entry]) -> None:
    for entry in entries:
        if entry.committed is not None and not entry.committed.done():
            entry.committed.set_exception(JournalError(_UNAVAILABLE, retry_after_s=1.0))


def _reason(error: Exception) -> str:
    """The reason, for the operator. Contains no numbers that change, so that one failure has one message."""
    if not isinstance(error, OSError):
        return "unexpected error in the writer, see the log"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "its file system has too little free space"
        case errno.EROFS:
            return "its file system is read-only"
        case errno.ENOENT:
            return "its folder or open segment was deleted"
        case errno.EACCES | errno.EPERM:
            return "the gateway has no permission to write there"
        case _:
            return f"disk error: {error.strerror or error}"
