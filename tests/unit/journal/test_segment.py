"""Segments have names that sort by time and two equivalent forms, and compression is all or nothing."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.journal.segment import CLOSED, PART, SegmentDamaged, SegmentName, compress, listed, read_lines, read_summary
from tests.support.recorded import NOW, WORKER, recorded, write_segment


@given(
    created=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31)),  # noqa: DTZ001 - hypothesis wants them naive
    worker=st.text("0123456789abcdef", min_size=10, max_size=10),
    sequence=st.integers(1, 10**9),
)
def test_a_segment_name_round_trips(created: datetime, worker: str, sequence: int) -> None:
    name = SegmentName(created.replace(tzinfo=UTC), worker, sequence)
    if created.year >= 1000:
        assert SegmentName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "a-b-c", "20261122T160203.123456Z-xyz-000001", "20261122T160203.123456Z-0123456789-1", "gateway"])
def test_other_names_are_not_segments(text: str) -> None:
    assert SegmentName.parse(text) is None


def test_compression_keeps_every_byte_and_adds_a_summary(tmp_path: Path) -> None:
    records = [recorded("/x", b'{"n":%d}' % number, [], at_s=number) for number in range(50)]
    plain = write_segment(tmp_path, records)
    content = plain.read_bytes()
    closed = compress(plain, read_summary(write_segment(tmp_path, records, sequence=2, is_closed=True)))  # type: ignore[arg-type]
    assert not plain.exists()
    assert b"".join(read_lines(listed(tmp_path)[0])) == content
    summary = read_summary(closed)
    assert summary is not None
    assert (summary.records, summary.size_bytes, summary.first, summary.last) == (50, len(content), NOW, records[-1].time)
    assert (closed.stat().st_mode & 0o777) == 0o640 & ~_umask()


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_any_zstd_tool_reads_a_closed_segment(tmp_path: Path) -> None:
    closed = write_segment(tmp_path, [recorded("/x", b"1", [])], is_closed=True)
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    code = f"import sys, {module} as z; sys.stdout.buffer.write(z.decompress(open(sys.argv[1], 'rb').read()))"
    found = subprocess.run([sys.executable, "-c", code, str(closed)], capture_output=True, check=True)
    assert found.stdout.startswith(b'{"v":1')


def test_the_compressed_form_wins_when_both_exist(tmp_path: Path) -> None:
    records = [recorded("/x", b"1", [])]
    write_segment(tmp_path, records, is_closed=True)
    write_segment(tmp_path, records)
    assert [segment.is_closed for segment in listed(tmp_path)] == [True]


def test_a_segment_compressed_between_listing_and_reading_is_still_read(tmp_path: Path) -> None:
    write_segment(tmp_path, [recorded("/x", b"1", [])])
    segment = listed(tmp_path)[0]
    write_segment(tmp_path, [recorded("/x", b"1", [])], is_closed=True)
    assert len(list(read_lines(segment))) == 1


def test_a_segment_deleted_between_listing_and_reading_has_no_lines(tmp_path: Path) -> None:
    write_segment(tmp_path, [recorded("/x", b"1", [])], is_closed=True)
    write_segment(tmp_path, [recorded("/x", b"1", [], at_s=1)])
    segments = listed(tmp_path)
    for segment in segments:
        segment.path.unlink()
    assert [list(read_lines(segment)) for segment in segments] == [[], []]


@pytest.mark.parametrize("keep", [1, 8, 60, 150])
def test_a_truncated_compressed_segment_is_reported_as_damaged(tmp_path: Path, keep: int) -> None:
    closed = write_segment(tmp_path, [recorded("/x", b"1", [])], is_closed=True)
    content = closed.read_bytes()
    closed.write_bytes(content[:keep] if keep < 60 else content[:-keep])
    with pytest.raises(SegmentDamaged):
        list(read_lines(listed(tmp_path)[0]))


def test_a_failed_compression_leaves_only_the_plain_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_segment(tmp_path, [recorded("/x", b"1", [])])
    summary = read_summary(write_segment(tmp_path, [recorded("/x", b"1", [])], sequence=2, is_closed=True))
    assert summary is not None

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="space"):
        compress(plain, summary)
    assert plain.exists()
    assert not list(tmp_path.glob(f"*{PART}"))
    assert len(list(tmp_path.glob(f"*{CLOSED}"))) == 1


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("README", "x.jsonl", f"worker-{WORKER}.lock", "a.jsonl.zst"):
        (tmp_path / name).write_text("x")
    assert listed(tmp_path) == []
