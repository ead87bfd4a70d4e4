"""How far a journal has been shipped to one sink: a small file beside the segments, replaced atomically.

A position counts the bytes of a segment's uncompressed lines, so it stays valid when the segment is compressed. It also holds the end of
the last line that was shipped. That detects a segment whose lines were cut off and rewritten, which is then shipped from its beginning.

The functions block: call them in a thread from an event loop.
"""

import fcntl
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from anabranch.journal.segment import FILE_MODE, Segment, sync_folder

_MARK_BYTES: Final = 12


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """`offset`: bytes of lines that were shipped. `mark`: the end of the last of them. `is_done`: closed and fully shipped."""

    offset: int = 0
    mark: str = ""
    is_done: bool = False

    def after(self, line: bytes) -> "Position":
        """Return the position behind `line` (with its line feed)."""
        return Position(self.offset + len(line), line[-1 - _MARK_BYTES : -1].decode("latin-1"))


START: Final = Position()
_decode: Final = msgspec.json.Decoder(dict[str, Position]).decode


class Checkpoint:
    """The positions of one sink in one folder, by segment name."""

    def __init__(self, folder: Path, sink: str) -> None:
        self._path = folder / f"sink-{sink}.json"
        self._lock_path = folder / f"sink-{sink}.lock"
        self._lock: int | None = None
        self.positions: dict[str, Position] = {}

    def lock(self) -> bool:
        """Become the process that ships the folder, and read the positions. False when another process already is. Raises OSError."""
        if self._lock is not None:
            return True
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.positions = read(self._path)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Release the lock. Its empty file stays: another process may be about to lock it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, existing: Collection[str]) -> None:
        """Write the positions to disk, without those of segments that no longer exist. Raises OSError."""
        self.positions = {name: position for name, position in self.positions.items() if name in existing}
        part = self._path.with_suffix(".part")
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, FILE_MODE)) as file:
            file.write(msgspec.json.encode(self.positions))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._path.parent)

    def is_needed(self, segment: Segment) -> bool:
        """Whether part of a segment has still to be shipped, according to the file, which may be another process's."""
        try:
            positions = read(self._path)
        except OSError:
            return True
        return not positions.get(str(segment.name), START).is_done

    def waiting(self, segments: Collection[Segment]) -> list[int]:
        """Return the bytes on disk still to be shipped, according to the file: one number for each segment that is not fully shipped.

        A closed segment counts in full until all of it is shipped. Raises OSError.
        """
        positions = read(self._path)
        found = []
        for segment in segments:
            position = positions.get(str(segment.name), START)
            size_bytes = segment.size_bytes if segment.is_closed else segment.size_bytes - position.offset
            if not position.is_done and size_bytes > 0:
                found.append(size_bytes)
        return found


def read(path: Path) -> dict[str, Position]:
    """Read the positions from a file. Empty when the file is missing or invalid; everything is then shipped again. Raises OSError."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError:
        return {}
