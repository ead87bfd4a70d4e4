"""Recovers the files of dead workers: cuts off torn tails, redoes unfinished compression, and sets unreadable files aside.

A worker is alive as long as its lock is held, so recovery may run at any time, in several processes at once. A bad file is logged and never
stops it. Blocking: run it in a thread.
"""

import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from anabranch.journal.disk import lock, unlock
from anabranch.journal.record import RecordError, check, read_head
from anabranch.journal.segment import (
    ASIDE,
    CLOSED,
    PART,
    PLAIN,
    Segment,
    SegmentDamaged,
    SegmentName,
    Summary,
    compress,
    is_worker,
    is_zstd,
    read_lines,
    read_summary,
    summarise,
)

logger = logging.getLogger("anabranch.journal")

_RECORD: Final = b'{"v":'


@dataclass(slots=True, kw_only=True)
class Recovery:
    """What was done. `segments`: recovered and compressed. `torn_bytes`: cut off. `damaged`: lines with a wrong checksum, which were left
    in place. `set_aside`: files named like a segment that are not one; they were renamed."""

    segments: int = 0
    torn_bytes: int = 0
    damaged: int = 0
    set_aside: int = 0


@dataclass(frozen=True, slots=True)
class Scan:
    """The content of a plain segment. `whole_bytes`: up to the end of its last valid line. `damaged`: invalid lines before that."""

    summary: Summary | None
    whole_bytes: int
    damaged: int


def recover(folder: Path) -> Recovery:
    """Recover what dead workers left in `folder`. A file that fails is logged and skipped. Raises OSError when the folder is unreadable."""
    done = Recovery()
    by_worker: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (worker := _worker(path.name)) is not None:
            by_worker.setdefault(worker, []).append(path)
        elif path.name.endswith(CLOSED) and not _is_readable(path):
            _set_aside(path, "is not a zstd file", done)
    for worker, paths in by_worker.items():
        try:
            held = lock(folder, worker)
        except OSError as error:
            logger.warning("cannot lock the files of the journal's worker %s for recovery: %s", worker, error.strerror)
            continue
        if held is None:
            continue
        try:
            for path in paths:
                _recover_file(path, done)
        finally:
            unlock(folder, worker, held)
    return done


def _worker(name: str) -> str | None:
    """The worker that must be dead before this file may be touched. None for closed segments and for foreign files."""
    if name.startswith("worker-") and name.endswith(".lock"):
        worker = name.removeprefix("worker-").removesuffix(".lock")
        return worker if is_worker(worker) else None
    suffix = next((suffix for suffix in (PART, PLAIN) if name.endswith(suffix)), None)
    parsed = None if suffix is None else SegmentName.parse(name.removesuffix(suffix))
    return None if parsed is None else parsed.worker


def _is_readable(path: Path) -> bool:
    if SegmentName.parse(path.name.removesuffix(CLOSED)) is None:
        return True
    try:
        return is_zstd(path)
    except OSError:
        return True


def _recover_file(path: Path, done: Recovery) -> None:
    try:
        if path.name.endswith(PART):
            path.unlink(missing_ok=True)
        elif path.name.endswith(PLAIN):
            recover_segment(path, done)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("the journal's segment %s could not be recovered, and is tried again later: %s", path.name, error.strerror or error)


def recover_segment(path: Path, done: Recovery) -> None:
    """Cut off the torn tail of a plain segment that is no longer written, and compress it. An OSError leaves it unchanged or cut."""
    closed = path.with_name(path.name.removesuffix(PLAIN) + CLOSED)
    if closed.exists() and _is_whole(closed):
        path.unlink()
        return
    size = path.stat().st_size
    found = scan(path)
    if found.summary is None and size and not _begins_as_record(path):
        _set_aside(path, "contains no record", done)
        return
    if found.whole_bytes < size:
        with path.open("r+b") as file:
            file.truncate(found.whole_bytes)
        done.torn_bytes += size - found.whole_bytes
        logger.warning("the journal's segment %s ended in a torn line: cut off %d bytes", path.name, size - found.whole_bytes)
    if found.damaged:
        done.damaged += found.damaged
        logger.error("the journal's segment %s has %d damaged lines; they stay in it, and readers skip them", path.name, found.damaged)
    if found.summary is None:
        path.unlink()
        return
    compress(path, found.summary)
    done.segments += 1


def scan(path: Path) -> Scan:
    """Read a whole plain segment. Raises OSError."""
    times: list[tuple[datetime, int]] = []
    position = whole = 0
    damaged = damaged_before_whole = 0
    with path.open("rb") as file:
        for raw in file:
            position += len(raw)
            try:
                if raw[-1:] != b"\n":
                    break
                line = raw[:-1]
                check(line)
                times.append((read_head(line).time, len(raw)))
            except RecordError:
                damaged += 1
            else:
                whole = position
                damaged_before_whole = damaged
    return Scan(summarise(times), whole, damaged_before_whole)


def _is_whole(closed: Path) -> bool:
    """Whether a compressed segment can be read to its end."""
    name = SegmentName.parse(closed.name.removesuffix(CLOSED))
    if name is None or read_summary(closed) is None:
        return False
    try:
        for _ in read_lines(Segment(name=name, path=closed, is_closed=True, size_bytes=0)):
            pass
    except SegmentDamaged:
        return False
    return True


def _begins_as_record(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(len(_RECORD))
    return _RECORD.startswith(head)


def _set_aside(path: Path, reason: str, done: Recovery) -> None:
    with contextlib.suppress(OSError):
        path.rename(path.with_name(path.name + ASIDE))
        done.set_aside += 1
        logger.error("%s has the name of a journal segment but %s: renamed to %s%s", path.name, reason, path.name, ASIDE)
