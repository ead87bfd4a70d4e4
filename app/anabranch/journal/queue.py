"""The queue before the writer: bounded in records and bytes, what is being written included. Pure bookkeeping in one event loop; no files."""

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

import msgspec

from anabranch.errors import JournalFull


class Entry(msgspec.Struct, eq=False, gc=False):
    """One line on its way to the disk, or a few of `records` that go there together. `time`: the earliest record's. `last`: the latest one's,
    None where it is the same. `committed`: resolved when it is on the disk, None when nobody waits for it; only for a single line.
    `is_void`: nobody wants it any more; it is passed over if it is not being written yet."""

    line: bytes
    time: datetime
    records: int = 1
    last: datetime | None = None
    committed: Any = None  # a Future[None]
    is_void: bool = False


class Queue:
    """`records`, `size_bytes`: what is in it or being written. A single line larger than the whole queue gets in when it is empty."""

    __slots__ = ("_entries", "_max_bytes", "_max_records", "_room", "records", "required", "size_bytes")

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._room: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.records = 0
        self.size_bytes = 0
        self.required = 0
        """Entries in it that somebody waits for."""

    def __len__(self) -> int:
        """Entries that are not being written yet."""
        return len(self._entries)

    @property
    def oldest(self) -> datetime | None:
        """Time of the record that waits longest; None when none waits."""
        return self._entries[0].time if self._entries else None

    def has_room(self, size_bytes: int) -> bool:
        return not self.records or (self.records < self._max_records and self.size_bytes + size_bytes <= self._max_bytes)

    def add(self, entry: Entry) -> bool:
        """Put `entry` in, if there is room and nobody has been waiting for it before. Says whether it is in."""
        size_bytes, records = len(entry.line), self.records + entry.records
        if self._room or (records > 1 and (records > self._max_records or self.size_bytes + size_bytes > self._max_bytes)):
            return False
        self.records = records
        self.size_bytes += size_bytes
        self._append(entry)
        return True

    async def add_in_turn(self, entry: Entry, deadline: float) -> None:
        """Put `entry` in as soon as there is room, first come, first served. Raises JournalFull when there is none by `deadline` (loop time)."""
        if self.add(entry):
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (len(entry.line), place)
        self._room.append(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.release(1, len(entry.line))
            elif waiting in self._room:
                self._room.remove(waiting)
                self._admit()
            if isinstance(error, TimeoutError):
                raise JournalFull("the journal's queue had no room for the record in time") from None
            raise
        self._append(entry)

    def take(self, max_bytes: int) -> list[Entry]:
        """The next entries to write, at least one if there is any that is wanted. They count until `release`."""
        taken: list[Entry] = []
        size = 0
        entries = self._entries
        while entries and (not taken or size + len(entries[0].line) <= max_bytes):
            entry = entries.popleft()
            if entry.committed is not None:
                self.required -= 1
            if entry.is_void:
                self.release(1, len(entry.line))
                continue
            taken.append(entry)
            size += len(entry.line)
        return taken

    def put_back(self, entries: list[Entry]) -> None:
        """Entries that could not be written, to the front again, in their order."""
        for entry in reversed(entries):
            self._entries.appendleft(entry)
            self.required += entry.committed is not None

    def release(self, records: int, size_bytes: int) -> None:
        """What was taken is done with: its room is free."""
        self.records -= records
        self.size_bytes -= size_bytes
        self._admit()

    def void_required(self) -> list[Entry]:
        """Give up every entry that somebody waits for. Returns them; their room is free."""
        given_up = [entry for entry in self._entries if entry.committed is not None]
        if given_up:
            self._entries = deque(entry for entry in self._entries if entry.committed is None)
            self.required = 0
            self.release(len(given_up), sum(len(entry.line) for entry in given_up))
        return given_up

    def refuse_waiting(self, reason: str) -> None:
        """There will be no room: end everybody's wait for it with JournalFull."""
        for _, place in self._room:
            if not place.done():
                place.set_exception(JournalFull(reason))
        self._room.clear()

    def _admit(self) -> None:
        while self._room and (self._room[0][1].done() or self.has_room(self._room[0][0])):
            size, place = self._room.popleft()
            if not place.done():
                self._reserve(size)
                place.set_result(None)

    def _reserve(self, size_bytes: int) -> None:
        self.records += 1
        self.size_bytes += size_bytes

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        if entry.committed is not None:
            self.required += 1
