"""One file of a journal: its name, its plain and compressed forms, and its summary.

`20261122T160203.123456Z-1f3a9c02e7-000001.jsonl` is written by the worker `1f3a9c02e7`. It is that worker's first segment, and its first
record has that time (UTC). Once closed, it becomes `...jsonl.zst`: a skippable zstd frame with a summary in JSON, then one frame with the
lines and their checksum. `...jsonl.zst.part` is such a file that is not complete yet; `....aside` is one that could not be read.
`worker-1f3a9c02e7.lock` is locked by its worker while that is alive.

The functions block: call them in a thread from an event loop.
"""

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Self

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN: Final = ".jsonl"
CLOSED: Final = ".jsonl.zst"
PART: Final = ".jsonl.zst.part"
ASIDE: Final = ".aside"
FILE_MODE: Final = 0o640

_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_SKIPPABLE: Final = 0x184D2A50
_ZSTD: Final = 0xFD2FB528
_FRAME: Final = struct.Struct("<II")
_MAX_SUMMARY_BYTES: Final = 64 * 1024
_LEVEL: Final = 1
_CHUNK_BYTES: Final = 256 * 1024
_SLICE_BYTES: Final = 64 * 1024
"""Bytes compressed between two pauses; takes 0.1 to 0.2 ms."""
_HAS_FADVISE: Final = hasattr(os, "posix_fadvise")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """`created`: time of the first record. `worker`: ten hexadecimal digits, different for each writer. `sequence`: counts from 1."""

    created: datetime
    worker: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.created.strftime(_TIME)}-{self.worker}-{self.sequence:06d}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a name without its suffix; None when it is not a segment's name."""
        created, _, rest = text.partition("-")
        worker, _, sequence = rest.partition("-")
        if not is_worker(worker) or len(sequence) < 6 or not (sequence.isascii() and sequence.isdecimal()):
            return None
        try:
            return cls(datetime.strptime(created, _TIME).replace(tzinfo=UTC), worker, int(sequence))
        except ValueError:
            return None


def is_worker(text: str) -> bool:
    return len(text) == 10 and not text.strip("0123456789abcdef")


class Summary(msgspec.Struct, frozen=True):
    """The summary at the start of a closed segment. `size_bytes`: of its lines, uncompressed. `first`, `last`: earliest and latest time."""

    records: int
    size_bytes: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment on disk. `size_bytes`: of the file. `summary`: None while it is not compressed."""

    name: SegmentName
    path: Path
    is_closed: bool
    size_bytes: int
    summary: Summary | None = None

    @property
    def starts(self) -> datetime:
        return self.name.created if self.summary is None else self.summary.first


class SegmentDamaged(Exception):
    """A closed segment cannot be read, or not to its end. The message says why."""


def listed(folder: Path) -> list[Segment]:
    """Return the segments in `folder`, the earliest first. Where both forms exist, the compressed one is used: it appears only when
    complete.

    Raises OSError when the folder cannot be read.
    """
    found: dict[SegmentName, Segment] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = next((suffix for suffix in (CLOSED, PLAIN) if entry.name.endswith(suffix)), None)
            name = None if suffix is None else SegmentName.parse(entry.name.removesuffix(suffix))
            if name is None or (suffix == PLAIN and name in found):
                continue
            # The file was compressed or deleted since the folder was read. The next listing reflects that.
            with contextlib.suppress(FileNotFoundError):
                path = Path(entry.path)
                summary = read_summary(path) if suffix == CLOSED else None
                size = entry.stat().st_size
                found[name] = Segment(name=name, path=path, is_closed=suffix == CLOSED, size_bytes=size, summary=summary)
    return sorted(found.values(), key=lambda segment: (segment.starts, segment.name))


def read_summary(path: Path) -> Summary | None:
    """Read the summary at the start of a closed segment; None when there is no readable one."""
    with path.open("rb") as file:
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        magic, size = _FRAME.unpack(head)
        if magic != _SKIPPABLE or size > _MAX_SUMMARY_BYTES:
            return None
        try:
            return msgspec.json.decode(file.read(size), type=Summary)
        except msgspec.DecodeError:
            return None


def is_zstd(path: Path) -> bool:
    """Whether the file begins with the magic number of a zstd frame."""
    with path.open("rb") as file:
        head = file.read(4)
    return head in (_SKIPPABLE.to_bytes(4, "little"), _ZSTD.to_bytes(4, "little"))


def read_lines(segment: Segment) -> Iterator[bytes]:
    """Yield the lines of a segment unverified, each with its line feed except for a torn last one. Constant memory.

    A segment that was compressed in the meantime is read from its compressed form; one that was deleted has no lines. Raises SegmentDamaged
    and OSError.
    """
    try:
        file = _open(segment.path, is_closed=segment.is_closed)
    except FileNotFoundError:
        if segment.is_closed:
            return
        try:
            file = _open(segment.path.with_name(f"{segment.name}{CLOSED}"), is_closed=True)
        except FileNotFoundError:
            return
    with file:
        try:
            yield from file
        except EOFError:
            raise SegmentDamaged("the compressed data ends too early") from None
        except zstd.ZstdError as error:
            raise SegmentDamaged(f"the compressed data cannot be read: {error}") from None


def _open(path: Path, *, is_closed: bool) -> "IO[bytes] | zstd.ZstdFile":
    return zstd.ZstdFile(path) if is_closed else path.open("rb")


def compress(plain: Path, summary: Summary, pause: Callable[[], None] = lambda: None) -> Path:
    """Write and sync the compressed form of a segment under a temporary name, rename it, and only then delete the plain form.

    `pause`: called between small pieces of work, to let other threads on the core run. Returns the new path. Raises OSError; the incomplete
    file is then deleted and the plain form stays.
    """
    name = plain.name.removesuffix(PLAIN)
    part, closed = plain.with_name(name + PART), plain.with_name(name + CLOSED)
    content = msgspec.json.encode(summary)
    options: dict[int, int] = {zstd.CompressionParameter.compression_level: _LEVEL, zstd.CompressionParameter.checksum_flag: 1}
    try:
        compressor = zstd.ZstdCompressor(options=options)
        compressor.set_pledged_input_size(plain.stat().st_size)
        with plain.open("rb") as source, open(part, "wb", opener=_opener) as target:
            target.write(_FRAME.pack(_SKIPPABLE, len(content)) + content)
            while chunk := source.read(_CHUNK_BYTES):
                for at in range(0, len(chunk), _SLICE_BYTES):
                    target.write(compressor.compress(chunk[at : at + _SLICE_BYTES]))
                    pause()
                drop_from_page_cache(source.fileno(), source.tell())
            target.write(compressor.flush())
            target.flush()
            os.fsync(target.fileno())
        part.replace(closed)
    except zstd.ZstdError as error:
        part.unlink(missing_ok=True)
        raise OSError(0, f"{plain.name} changed while it was being compressed: {error}") from None
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(plain.parent)
    plain.unlink()
    return closed


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def drop_from_page_cache(descriptor: int, size_bytes: int) -> None:
    """Let the system reuse the page cache memory of a file's first bytes, which are already on disk.

    Otherwise each page of a day's journal takes new memory. That costs more than writing the page, and counts against a container's memory
    limit. A last page that is only partly filled stays cached.
    """
    if not _HAS_FADVISE:
        return
    with contextlib.suppress(OSError):  # this is only advice to the system
        os.posix_fadvise(descriptor, 0, size_bytes - size_bytes % _PAGE_BYTES, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk. A new file survives a power cut only if its folder was synced too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def summarise(lines: Iterable[tuple[datetime, int]]) -> Summary | None:
    """Summarise records by their times and sizes; None when there are none."""
    records = size = 0
    first = last = None
    for time, length in lines:
        records += 1
        size += length
        first = time if first is None or time < first else first
        last = time if last is None or time > last else last
    if first is None or last is None:
        return None
    return Summary(records=records, size_bytes=size, first=first, last=last)
