"""The queue in front of the writer. Its limits on records and bytes include what is being written.

Pure bookkeeping in one event loop; no files.
"""

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

import msgspec

from anabranch.errors import JournalFull


class Entry(msgspec.Struct, eq=False, gc=False):
    """One line to be written, or several lines of `records` that are written together.

    `time`: of the earliest record. `last`: of the latest record, None when it is the same. `committed`: resolved when the line is on disk,
    None when no request waits for that; only for a single line. `is_abandoned`: the request stopped waiting, and the entry is skipped
    unless it is being written already.
    """

    line: bytes
    time: datetime
    records: int = 1
    last: datetime | None = None
    committed: Any = None  # a Future[None]
    is_abandoned: bool = False


class Queue:
    """`records`, `size_bytes`: queued or being written. A line larger than the whole queue is accepted when the queue is empty."""

    __slots__ = ("_entries", "_max_bytes", "_max_records", "_waiting", "records", "required", "size_bytes")

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.records = 0
        self.size_bytes = 0
        self.required = 0
        """Queued entries that a request waits for."""

    def __len__(self) -> int:
        """Number of entries that are not being written yet."""
        return len(self._entries)

    @property
    def oldest(self) -> datetime | None:
        """Time of the oldest queued record; None when the queue is empty."""
        return self._entries[0].time if self._entries else None

    def has_room(self, size_bytes: int) -> bool:
        return not self.records or (self.records < self._max_records and self.size_bytes + size_bytes <= self._max_bytes)

    def add(self, entry: Entry) -> bool:
        """Enqueue `entry` if there is room and no earlier entry waits for room. Returns whether it was enqueued."""
        size_bytes, records = len(entry.line), self.records + entry.records
        if self._waiting or (records > 1 and (records > self._max_records or self.size_bytes + size_bytes > self._max_bytes)):
            return False
        self.records = records
        self.size_bytes += size_bytes
        self._append(entry)
        return True

    async def add_in_turn(self, entry: Entry, deadline: float) -> None:
        """Enqueue `entry` as soon as there is room, in order of arrival. Raises JournalFull when there is none by `deadline` (loop time).

        Cancellation: the entry is not enqueued.
        """
        if self.add(entry):
            return
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (len(entry.line), slot)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await slot
        except BaseException as error:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.release(1, len(entry.line))
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
                self._admit()
            if isinstance(error, TimeoutError):
                raise JournalFull("the journal's queue had no room for the record before the deadline") from None
            raise
        self._append(entry)

    def take(self, max_bytes: int) -> list[Entry]:
        """Remove and return the next entries to write: up to `max_bytes`, but at least one. Skips and discards abandoned ones.

        The room of the returned entries stays taken until `release`.
        """
        taken: list[Entry] = []
        size = 0
        entries = self._entries
        while entries and (not taken or size + len(entries[0].line) <= max_bytes):
            entry = entries.popleft()
            if entry.committed is not None:
                self.required -= 1
            if entry.is_abandoned:
                self.release(1, len(entry.line))
                continue
            taken.append(entry)
            size += len(entry.line)
        return taken

    def put_back(self, entries: list[Entry]) -> None:
        """Put entries that could not be written back at the front, in their order."""
        for entry in reversed(entries):
            self._entries.appendleft(entry)
            self.required += entry.committed is not None

    def release(self, records: int, size_bytes: int) -> None:
        """Free the room of entries that were taken, and admit waiting ones."""
        self.records -= records
        self.size_bytes -= size_bytes
        self._admit()

    def discard_required(self) -> list[Entry]:
        """Remove and return every entry that a request waits for. Frees their room."""
        discarded = [entry for entry in self._entries if entry.committed is not None]
        if discarded:
            self._entries = deque(entry for entry in self._entries if entry.committed is None)
            self.required = 0
            self.release(len(discarded), sum(len(entry.line) for entry in discarded))
        return discarded

    def reject_waiting(self, reason: str) -> None:
        """Fail every wait for room with JournalFull."""
        for _, slot in self._waiting:
            if not slot.done():
                slot.set_exception(JournalFull(reason))
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self.has_room(self._waiting[0][0])):
            size, slot = self._waiting.popleft()
            if not slot.done():
                self._reserve(size)
                slot.set_result(None)

    def _reserve(self, size_bytes: int) -> None:
        self.records += 1
        self.size_bytes += size_bytes

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        if entry.committed is not None:
            self.required += 1
