"""Retention deletes the oldest closed segments, never the open ones, and nothing that a sink still needs."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from anabranch.config.journal import Journal as Config
from anabranch.journal.archive import Archive
from anabranch.journal.counters import JournalCounters
from anabranch.journal.segment import Segment, Summary, listed, read_lines
from tests.support.recorded import NOW, recorded, write_segment


def archive(folder: Path, *, is_needed: object = None, **config: object) -> Archive:
    return Archive(folder, Config(**config), JournalCounters(), is_needed=is_needed, now=lambda: NOW + timedelta(days=10))  # type: ignore[arg-type]


def fill(folder: Path, count: int = 5) -> int:
    """Write one closed segment for each day and an open one. Returns the size of a closed one."""
    for day in range(count):
        write_segment(folder, [recorded("/x", b'{"day":%d}' % day, [], at_s=day * 86400.0)], sequence=day + 1, is_closed=True)
    write_segment(folder, [recorded("/x", b"1", [], at_s=0.0)], sequence=99)
    return max(segment.size_bytes for segment in listed(folder) if segment.is_closed)


def left(folder: Path) -> list[int]:
    return sorted(segment.name.sequence for segment in listed(folder))


def test_without_rules_nothing_is_deleted(tmp_path: Path) -> None:
    fill(tmp_path)
    archive(tmp_path).retain()
    assert left(tmp_path) == [1, 2, 3, 4, 5, 99]


def test_segments_whose_last_record_is_too_old_are_deleted(tmp_path: Path) -> None:
    fill(tmp_path)
    archive(tmp_path, keep_age="7d").retain()
    assert left(tmp_path) == [4, 5, 99]


def test_the_oldest_segments_are_deleted_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    size = fill(tmp_path)
    open_bytes = next(segment.size_bytes for segment in listed(tmp_path) if not segment.is_closed)
    archive(tmp_path, keep_size=open_bytes + 2 * size).retain()
    assert left(tmp_path) == [4, 5, 99]


def test_segments_that_a_sink_needs_are_kept(tmp_path: Path) -> None:
    fill(tmp_path)

    def is_needed(segment: Segment) -> bool:
        return segment.name.sequence == 2

    archive(tmp_path, keep_age="7d", is_needed=is_needed).retain()
    assert left(tmp_path) == [2, 4, 5, 99]


def test_a_deleted_folder_is_not_a_failure(tmp_path: Path) -> None:
    archive(tmp_path / "none", keep_age="7d").retain()


async def test_compression_pauses_between_pieces_unless_it_falls_behind_or_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("anabranch.journal.archive.sleep", pauses.append)
    records = [recorded("/x", b'"' + b"x" * 100_000 + b'"', [], at_s=0.0) for _ in range(10)]
    plain = [write_segment(tmp_path, records, sequence=number) for number in range(1, 4)]
    summary = Summary(records=10, size_bytes=plain[0].stat().st_size, first=NOW, last=NOW)

    async def compressed(paths: list[Path], *, closing: bool = False) -> None:
        one = archive(tmp_path)
        for path in paths:
            one.submit(path, summary)
        if closing:
            one.close()
        task = asyncio.create_task(one.run())
        async with asyncio.timeout(30):
            while any(path.exists() for path in paths):
                await asyncio.sleep(0.005)
        one.close()
        await task

    await compressed(plain[:1], closing=True)
    assert pauses == []
    await compressed(plain[1:])
    alone = len(pauses)  # the second of the two
    assert 15 <= alone <= 20
    assert len(left(tmp_path)) == 3
    assert all(segment.is_closed and len(list(read_lines(segment))) == 10 for segment in listed(tmp_path))
