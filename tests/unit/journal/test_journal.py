"""The writer and its archive together: acknowledged records are on disk exactly once, and the journal recovers from every fault."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anabranch.config.journal import Journal as Config
from anabranch.errors import JournalError, JournalFull
from anabranch.journal import reader
from anabranch.journal.journal import Journal
from anabranch.journal.record import Record, encode
from anabranch.journal.segment import CLOSED, PLAIN, listed
from anabranch.journal.verify import verify
from tests.support.faulty_disk import FaultyDisk
from tests.support.recorded import recorded


@asynccontextmanager
async def opened(folder: Path, disk: FaultyDisk | None = None, **config: Any) -> AsyncIterator[Journal]:
    async with Journal(Config(**{"min_free": 0, **config}), folder=folder, disk=disk) as journal:
        yield journal


def record(number: int = 0) -> Record:
    return recorded("/x", b'{"n":%d}' % number, [], at_s=number / 1000)


def ids(folder: Path) -> list[str]:
    return [found.id for found in reader.records(folder)]


async def commit(journal: Journal, one: Record, within_s: float = 10.0) -> None:
    await journal.commit(encode(one), one.time, asyncio.get_running_loop().time() + within_s)


def offer(journal: Journal, one: Record) -> bool:
    return journal.offer(encode(one), one.time)


class Deferred:
    """A record that is built when the writer needs it."""

    def __init__(self, one: Record) -> None:
        self._one = one

    def write(self, lines: bytearray) -> datetime:
        lines += encode(self._one)
        return self._one.time


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


# --------------------------------------------------------------------------------------------------------------- order


async def test_a_committed_record_is_on_disk_when_the_commit_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for number in range(5):
            one = record(number)
            await commit(journal, one)
            assert ids(tmp_path)[-1] == one.id


async def test_a_deferred_record_is_built_and_written_with_the_next_group(tmp_path: Path) -> None:
    async with opened(tmp_path, flush_interval="10ms") as journal:
        wanted = [record(number) for number in range(40)]
        for one in wanted:
            journal.defer(Deferred(one), 100)
        await until(lambda: journal.counters.written == len(wanted))
        assert ids(tmp_path) == [one.id for one in wanted]


async def test_deferred_records_beyond_the_queue_size_are_dropped(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    async with opened(tmp_path, disk, queue_records=5, on_full="drop") as journal:
        disk.faults["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
        wanted = [record(number) for number in range(8)]
        for one in wanted:
            journal.defer(Deferred(one), 100)
        await until(lambda: journal.counters.dropped == 3)
        disk.faults.clear()
        await until(lambda: journal.counters.written == 5)
    assert ids(tmp_path) == [one.id for one in wanted[:5]]


async def test_a_pending_deferred_record_is_written_at_shutdown(tmp_path: Path) -> None:
    async with opened(tmp_path, flush_interval="1h") as journal:
        await commit(journal, record(0))
        journal.defer(Deferred(late := record(1)), 100)
    assert ids(tmp_path)[-1] == late.id
    assert journal.counters.dropped == 0
    journal.defer(Deferred(record(2)), 100)
    assert journal.counters.dropped == 1


async def test_commits_at_the_same_time_share_an_fsync(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    async with opened(tmp_path, disk) as journal:
        await asyncio.gather(*(commit(journal, record(number)) for number in range(100)))
        assert disk.syncs <= 3
    assert len(set(ids(tmp_path))) == 100


async def test_relaxed_records_are_on_disk_within_the_flush_interval(tmp_path: Path) -> None:
    async with opened(tmp_path, flush_interval="20ms") as journal:
        one = record()
        assert offer(journal, one)
        await until(lambda: journal.counters.written == 1)
        assert ids(tmp_path) == [one.id]


async def test_closing_writes_queued_records_and_closes_the_segment(tmp_path: Path) -> None:
    wanted = [record(number) for number in range(500)]
    async with opened(tmp_path, flush_interval="1h") as journal:
        assert all(offer(journal, one) for one in wanted)
    assert ids(tmp_path) == [one.id for one in wanted]
    assert [path.name.endswith(CLOSED) for path in tmp_path.iterdir()] == [True]


async def test_an_unused_journal_creates_no_files(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal"):
        pass
    assert not (tmp_path / "journal").exists()


async def test_the_record_of_a_cancelled_commit_is_still_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        one = record()
        task = asyncio.create_task(commit(journal, one))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: journal.counters.written == 1)
    assert ids(tmp_path) == [one.id]


async def test_segments_are_closed_by_size(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_size="64KiB") as journal:
        for number in range(40):
            one = recorded("/x", b'"' + b"x" * 10_000 + b'"', [], at_s=number)
            await commit(journal, one)
    segments = listed(tmp_path)
    assert 5 <= len(segments) <= 7
    assert all(verify(segment).is_sound for segment in segments)


async def test_segments_are_closed_by_age_without_new_records(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_age="50ms") as journal:
        await commit(journal, record())
        await until(lambda: journal.counters.compressed == 1)
        await commit(journal, record(1))
    assert len(listed(tmp_path)) == 2


async def test_a_clock_that_goes_back_starts_a_new_segment(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for at_s in (0.0, 1.0, -3600.0, -3599.0):
            await commit(journal, recorded("/x", b"1", [], at_s=at_s))
    segments = listed(tmp_path)
    assert len(segments) == 2
    assert [segment.summary.last - segment.summary.first for segment in segments if segment.summary] == [timedelta(seconds=1)] * 2
    assert len(ids(tmp_path)) == 4


async def test_two_journals_in_one_folder_write_separate_segments(tmp_path: Path) -> None:
    async with opened(tmp_path) as first, opened(tmp_path) as second:
        await asyncio.gather(*(commit(journal, record(number)) for number in range(50) for journal in (first, second)))
        assert len({path.name.split("-")[1] for path in tmp_path.glob(f"*{PLAIN}")}) == 2
    assert len(set(ids(tmp_path))) == 100


# ------------------------------------------------------------------------------------------------------------ the queue


async def test_a_full_queue_drops_relaxed_records_and_counts_them(tmp_path: Path) -> None:
    async with opened(tmp_path, queue_records=3) as journal:
        assert [offer(journal, record(number)) for number in range(5)] == [True, True, True, False, False]
        assert journal.counters.dropped == 2
    assert len(ids(tmp_path)) == 3


async def test_waiting_for_room_loses_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, queue_records=3, on_full="wait", flush_interval="1ms") as journal:
        deadline = asyncio.get_running_loop().time() + 10
        lines = [(encode(one), one.time) for one in map(record, range(60))]
        assert all(await asyncio.gather(*(journal.put(line, time, deadline) for line, time in lines)))
    assert len(set(ids(tmp_path))) == 60


async def test_waiting_for_room_ends_with_the_deadline(tmp_path: Path) -> None:
    async with opened(tmp_path, queue_records=1, on_full="wait", flush_interval="1h") as journal:
        await commit(journal, record())
        now = asyncio.get_running_loop().time()
        assert offer(journal, record())
        one = record(1)
        assert not await journal.put(encode(one), one.time, now + 0.01)
        with pytest.raises(JournalFull):
            await commit(journal, one, within_s=0.01)
        assert (journal.counters.dropped, journal.counters.refused) == (1, 1)


async def test_a_commit_that_times_out_is_rejected_and_not_written_later(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    release = asyncio.Event()

    async with opened(tmp_path, disk) as journal:
        await commit(journal, record())
        create = disk.run

        async def slow(*arguments: Any) -> Any:
            await release.wait()
            return await create(*arguments)

        disk.run = slow  # type: ignore[method-assign, assignment]
        under_way = asyncio.create_task(commit(journal, record(1)))
        await asyncio.sleep(0.01)
        with pytest.raises(JournalError, match="in time"):
            await commit(journal, record(2), within_s=0.01)
        release.set()
        await under_way
    assert len(ids(tmp_path)) == 2


# -------------------------------------------------------------------------------------------------------------- trouble

FULL = OSError(errno.ENOSPC, "No space left on device")


CODES = (errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES)


@pytest.mark.parametrize(
    ("step", "code"),
    [*((step, errno.ENOSPC) for step in ("prepare", "create", "append", "sync", "free")), *(("append", code) for code in CODES)],
)
async def test_during_any_disk_fault_required_records_are_rejected_and_relaxed_ones_kept(tmp_path: Path, step: str, code: int) -> None:
    disk = FaultyDisk(tmp_path)
    async with opened(tmp_path, disk, min_free=1) as journal:
        before = record()
        if step not in ("prepare", "create"):
            await commit(journal, before)
        if step == "free":
            await until_checked(journal, disk, code)
        disk.faults[step] = OSError(code, os.strerror(code))
        kept = record(1)
        if step != "free":
            with pytest.raises(JournalError):
                await commit(journal, record(2))
        assert offer(journal, kept)
        await until(lambda: journal.counters.failures >= 2)
        with pytest.raises(JournalError):
            await commit(journal, record(3))
        assert journal.counters.trouble is not None
        disk.faults.clear()
        await until(lambda: journal.counters.trouble is None)
        after = record(4)
        await commit(journal, after)
    expected = {kept.id, after.id} | ({before.id} if step not in ("prepare", "create") else set())
    assert sorted(ids(tmp_path)) == sorted(expected)
    assert all(verify(segment).is_sound for segment in listed(tmp_path))


async def until_checked(journal: Journal, disk: FaultyDisk, code: int) -> None:
    """Make the writer check the free space, which it does after a failure."""
    disk.faults["sync"] = OSError(code, os.strerror(code))
    disk.faults["free"] = OSError(code, os.strerror(code))
    with pytest.raises(JournalError):
        await commit(journal, record(9))
    del disk.faults["sync"]


async def test_too_little_free_space_is_a_failure_before_the_disk_is_full(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.free = 999
    async with opened(tmp_path, disk, min_free=1000) as journal:
        with pytest.raises(JournalError):
            await commit(journal, record())
        assert journal.counters.trouble == "its file system has too little free space"
        disk.free = 1001
        await until(lambda: journal.counters.trouble is None)
        await commit(journal, record(1))
    assert len(ids(tmp_path)) == 1


async def test_required_records_queued_behind_a_failed_one_are_rejected_with_it(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.faults["sync"] = FULL
    async with opened(tmp_path, disk) as journal:
        results = await asyncio.gather(*(commit(journal, record(number)) for number in range(20)), return_exceptions=True)
        assert all(isinstance(result, JournalError) for result in results)
        assert journal.counters.refused == 20
        disk.faults.clear()
        await until(lambda: journal.counters.trouble is None)
    assert ids(tmp_path) == []


async def test_a_deleted_folder_is_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    async with opened(folder) as journal:
        await commit(journal, record())
        shutil.rmtree(folder)
        with pytest.raises(JournalError):
            await commit(journal, record(1))
        await until(lambda: journal.counters.trouble is None)
        one = record(2)
        await commit(journal, one)
        assert ids(folder) == [one.id]
    assert ids(folder) == [one.id]


async def test_the_gateway_starts_when_the_folder_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "file" / "journal") as journal:
        with pytest.raises(JournalError):
            await commit(journal, record())
        assert offer(journal, record(1))
    assert journal.counters.dropped == 1


async def test_a_torn_tail_that_cannot_be_truncated_is_recovered_later(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    async with opened(tmp_path, disk) as journal:
        await commit(journal, record())
        disk.faults |= {"append": FULL, "truncate": FULL}
        with pytest.raises(JournalError):
            await commit(journal, record(1))
        disk.faults.clear()
        await until(lambda: journal.counters.trouble is None)
        await commit(journal, record(2))
    assert len(ids(tmp_path)) == 2
    assert journal.counters.torn_bytes == disk.torn
    assert all(verify(segment).is_sound for segment in listed(tmp_path))


async def test_during_a_failure_a_full_queue_drops_at_once_even_with_on_full_wait(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.faults["create"] = FULL
    async with opened(tmp_path, disk, queue_records=2, on_full="wait", flush_interval="1ms") as journal:
        later = asyncio.get_running_loop().time() + 3600
        one = record()
        assert await journal.put(encode(one), one.time, later)
        await until(lambda: journal.counters.trouble is not None)
        assert await journal.put(encode(one), one.time, later)
        async with asyncio.timeout(30):
            assert not await journal.put(encode(one), one.time, later)
        disk.faults.clear()
    assert len(ids(tmp_path)) == 2


async def test_the_journal_recovers_from_an_unexpected_fault(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.faults["sync"] = ValueError("I/O operation on closed file")  # type: ignore[assignment]
    async with opened(tmp_path, disk) as journal:
        with pytest.raises(JournalError):
            await commit(journal, record())
        disk.faults.clear()
        await until(lambda: journal.counters.trouble is None)
        await commit(journal, record(1))
    assert len(ids(tmp_path)) == 1
