"""How far a journal has been shipped to one place: a small file beside the segments, replaced as a whole.

A position counts the bytes of a segment's lines, compressed or not, so it outlives the compression. It holds the end of the last line that
was shipped: a segment whose lines were cut and written anew is noticed by it, and shipped from its beginning.

Blocking functions: whoever has an event loop calls them in a thread.
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
    """`offset`: bytes of lines that were shipped. `mark`: the end of the last of them. `is_done`: the segment is closed, and all of it was."""

    offset: int = 0
    mark: str = ""
    is_done: bool = False

    def after(self, line: bytes) -> "Position":
        """`line`: with its line feed."""
        return Position(self.offset + len(line), line[-1 - _MARK_BYTES : -1].decode("latin-1"))


START: Final = Position()
_decode: Final = msgspec.json.Decoder(dict[str, Position]).decode


class Checkpoint:
    """The positions in one folder for one sink, by the segments' names."""

    def __init__(self, folder: Path, sink: str) -> None:
        self._path = folder / f"sink-{sink}.json"
        self._lock_path = folder / f"sink-{sink}.lock"
        self._lock: int | None = None
        self.positions: dict[str, Position] = {}

    @property
    def is_locked(self) -> bool:
        return self._lock is not None

    def lock(self) -> bool:
        """Become the one who ships this folder there, and read how far that is. False when another process is. Raises OSError."""
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
        """The file stays: it has no content, and another process may be about to lock it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, existing: Collection[str]) -> None:
        """Put the positions on the disk; those of segments that are gone are forgotten. Raises OSError."""
        self.positions = {name: position for name, position in self.positions.items() if name in existing}
        part = self._path.with_suffix(".part")
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, FILE_MODE)) as file:
            file.write(msgspec.json.encode(self.positions))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._path.parent)

    def is_needed(self, segment: Segment) -> bool:
        """Whether some of a segment has still to be shipped, as the file says: whichever process ships."""
        try:
            positions = read(self._path)
        except OSError:
            return True
        return not positions.get(str(segment.name), START).is_done

    def waiting(self, segments: Collection[Segment]) -> list[int]:
        """Of these segments, the bytes on the disk that have still to be shipped, as the file says; segments of which all was are left out.

        A closed one counts as a whole until all of it was. Raises OSError.
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
    """The positions in a file; none when it is not there, or not one of ours: everything is shipped again then. Raises OSError."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError:
        return {}
