"""Files left by a dead worker are repaired or set aside, and complete records are never lost."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.journal import reader
from anabranch.journal.disk import lock, lock_path, unlock
from anabranch.journal.record import encode
from anabranch.journal.recovery import recover, scan
from anabranch.journal.segment import ASIDE, CLOSED, PART, PLAIN, listed
from anabranch.journal.verify import verify
from tests.support.recorded import WORKER, recorded, write_segment

RECORDS = [recorded("/x", b'{"n":%d}' % number, [], at_s=number) for number in range(3)]
CONTENT = b"".join(map(encode, RECORDS))
ENDS = [len(b"".join(map(encode, RECORDS[:count]))) for count in range(4)]


def ids(folder: Path) -> list[str]:
    return [found.id for found in reader.records(folder)]


def test_a_tail_torn_at_any_byte_is_truncated_and_every_complete_record_stays(tmp_path: Path) -> None:
    for end in range(1, len(CONTENT), 3):
        folder = tmp_path / str(end)
        path = write_segment(folder, RECORDS)
        path.write_bytes(CONTENT[:end])
        whole = max(count for count in range(4) if ENDS[count] <= end)
        done = recover(folder)
        assert ids(folder) == [record.id for record in RECORDS[:whole]]
        assert done.torn_bytes == end - ENDS[whole]
        assert done.segments == (whole > 0)
        assert all(verify(segment).is_sound for segment in listed(folder))
        assert not list(folder.glob("*.lock"))
        assert recover(folder).torn_bytes == 0


@settings(max_examples=60, deadline=None)
@given(tail=st.binary(min_size=1, max_size=60), count=st.integers(1, 3))
def test_any_garbage_after_complete_records_is_truncated(tmp_path_factory: pytest.TempPathFactory, tail: bytes, count: int) -> None:
    folder = tmp_path_factory.mktemp("rubbish")
    write_segment(folder, RECORDS).write_bytes(CONTENT[: ENDS[count]] + tail)
    recover(folder)
    assert ids(folder) == [record.id for record in RECORDS[:count]]
    assert all(verify(segment).is_sound for segment in listed(folder))


def test_a_trailing_block_of_zeros_is_truncated(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS).write_bytes(CONTENT + b"\0" * 4096)
    assert recover(tmp_path).torn_bytes == 4096
    assert len(ids(tmp_path)) == 3


def test_a_damaged_line_in_the_middle_stays_and_is_counted(tmp_path: Path) -> None:
    content = bytearray(CONTENT)
    content[ENDS[1] + 30] ^= 1
    write_segment(tmp_path, RECORDS).write_bytes(content)
    done = recover(tmp_path)
    assert (done.damaged, done.torn_bytes, done.segments) == (1, 0, 1)
    assert ids(tmp_path) == [RECORDS[0].id, RECORDS[2].id]
    assert verify(listed(tmp_path)[0]).damaged == 1


def test_a_partly_compressed_segment_is_compressed_again(tmp_path: Path) -> None:
    plain = write_segment(tmp_path, RECORDS)
    part = plain.with_name(plain.name.removesuffix(PLAIN) + PART)
    part.write_bytes(b"half of it")
    recover(tmp_path)
    assert [segment.is_closed for segment in listed(tmp_path)] == [True]
    assert len(ids(tmp_path)) == 3
    assert not part.exists()


def test_a_plain_segment_with_a_complete_compressed_form_is_deleted(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS, is_closed=True)
    plain = write_segment(tmp_path, RECORDS)
    recover(tmp_path)
    assert not plain.exists()
    assert len(ids(tmp_path)) == 3


def test_an_unreadable_compressed_form_is_rebuilt_from_the_plain_segment(tmp_path: Path) -> None:
    closed = write_segment(tmp_path, RECORDS, is_closed=True)
    closed.write_bytes(closed.read_bytes()[:-20])
    write_segment(tmp_path, RECORDS)
    recover(tmp_path)
    assert len(ids(tmp_path)) == 3
    assert verify(listed(tmp_path)[0]).is_sound


def test_files_that_only_have_the_name_of_a_segment_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = write_segment(tmp_path, RECORDS)
    plain.write_text("dear diary\nnothing happened\n")
    closed = write_segment(tmp_path, RECORDS, sequence=2, is_closed=True)
    closed.write_text("PK not zstd")
    done = recover(tmp_path)
    assert done.set_aside == 2
    assert {path.name for path in tmp_path.iterdir()} == {plain.name + ASIDE, closed.name + ASIDE}
    assert "dear diary" in (tmp_path / (plain.name + ASIDE)).read_text()
    assert sum("has the name of a journal segment" in message for message in caplog.messages) == 2


def test_foreign_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.jsonl").write_text("x")
    (tmp_path / "worker-x.lock").write_text("x")
    (tmp_path / "notes").mkdir()
    recover(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.jsonl", "worker-x.lock", "notes"}


def test_an_empty_segment_and_an_unheld_lock_are_deleted(tmp_path: Path) -> None:
    write_segment(tmp_path, RECORDS).write_bytes(b"")
    lock_path(tmp_path, "aaaaaaaaaa").write_text("")
    recover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_segments_of_a_living_worker_are_not_touched(tmp_path: Path) -> None:
    path = write_segment(tmp_path, RECORDS)
    path.write_bytes(CONTENT[:-5])
    held = lock(tmp_path, WORKER)
    assert held is not None
    recover(tmp_path)
    assert path.read_bytes() == CONTENT[:-5]
    unlock(tmp_path, WORKER, held)
    assert recover(tmp_path).segments == 1


def test_a_segment_that_cannot_be_repaired_does_not_block_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_segment(tmp_path, RECORDS, worker="aaaaaaaaaa")
    write_segment(tmp_path, RECORDS, worker="bbbbbbbbbb")
    sync = os.fsync
    faults = [OSError(28, "No space left on device")]

    def fsync(descriptor: int) -> None:
        if faults:
            raise faults.pop()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert recover(tmp_path).segments == 1
    assert recover(tmp_path).segments == 1
    assert len(list(tmp_path.glob(f"*{CLOSED}"))) == 2


def test_a_scan_reports_the_complete_records(tmp_path: Path) -> None:
    path = write_segment(tmp_path, RECORDS)
    path.write_bytes(CONTENT + b'{"v":1,"half')
    found = scan(path)
    assert found.summary is not None
    assert (found.summary.records, found.whole_bytes, found.damaged) == (3, len(CONTENT), 0)
