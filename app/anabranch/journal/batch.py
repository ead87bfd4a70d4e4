"""Relaxed records that are not written out yet. What one needs is set aside when its response goes out; many are made one after the other.

Making a record right behind its own response costs twice as much as behind another record, because the processor's caches hold everything
else by then. Nothing waits here longer than until the writer takes its next group. Knows nothing of what is in a record.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

logger = logging.getLogger("anabranch.journal")

# So many are made without a pause: a quarter of a millisecond in which no request goes on. And no more of the memory than this is held by them.
_MOST: Final = 32
_MOST_BYTES: Final = 256 * 1024


class Unmade(Protocol):
    """What a record is made of."""

    def write(self, lines: bytearray) -> datetime:
        """Append the record's line, and return its time."""
        ...


class Batch:
    """`take`: told the lines that were made, one behind the other, and the time of each. `lost`: told how many records could not be made."""

    __slots__ = ("_lost", "_size_bytes", "_take", "_unmade")

    def __init__(self, take: Callable[[bytes, list[datetime]], object], lost: Callable[[int], None]) -> None:
        self._take = take
        self._lost = lost
        self._unmade: list[Unmade] = []
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._unmade)

    def add(self, unmade: Unmade, size_bytes: int) -> None:
        """`size_bytes`: about what it holds of the memory."""
        self._unmade.append(unmade)
        self._size_bytes += size_bytes
        if len(self._unmade) >= _MOST or self._size_bytes >= _MOST_BYTES:
            self.make()

    def make(self) -> None:
        """Make all records that are set aside. One that cannot be made is logged, and costs no other."""
        unmade, self._unmade, self._size_bytes = self._unmade, [], 0
        lines, times = bytearray(), []
        for one in unmade:
            start = len(lines)
            try:
                times.append(one.write(lines))
            except Exception:
                logger.exception("a record could not be made")
                del lines[start:]
                self._lost(1)
        if times:
            self._take(bytes(lines), times)
