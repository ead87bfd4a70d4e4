"""Readers return every matching record once, in order of time, from segments of any form and worker."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.journal import reader
from anabranch.journal.filter import EVERYTHING, Filter
from anabranch.journal.follow import Follower
from anabranch.journal.reader import Tally
from anabranch.journal.record import Record, encode
from anabranch.journal.recovery import scan
from anabranch.journal.segment import PLAIN, Segment, compress, listed, read_lines
from anabranch.journal.statistics import statistics
from anabranch.journal.verify import verify
from tests.support.recorded import NOW, recorded, write_segment

WORKERS = ("aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc")


def one(at_s: float, **more: Any) -> Record:
    return recorded("/x", b"1", [], at_s=at_s, **more)


def seconds(folder: Path, where: Filter = EVERYTHING) -> list[float]:
    return [(record.time - NOW).total_seconds() for record in reader.records(folder, where)]


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.tuples(st.sampled_from(WORKERS), st.integers(1, 3), st.booleans(), st.floats(0, 100)), max_size=25))
def test_workers_are_merged_by_time(tmp_path_factory: pytest.TempPathFactory, data: list[tuple[str, int, bool, float]]) -> None:
    folder = tmp_path_factory.mktemp("merged")
    by_segment: dict[tuple[str, int], list[Record]] = {}
    for worker, sequence, _, at_s in data:
        by_segment.setdefault((worker, sequence), []).append(one(at_s))
    is_closed = {(worker, sequence): closed for worker, sequence, closed, _ in data}
    for (worker, sequence), records in by_segment.items():
        records.sort(key=lambda record: record.time)
        write_segment(folder, records, worker=worker, sequence=sequence, is_closed=is_closed[worker, sequence])
    found = list(reader.records(folder))
    assert [record.time for record in found] == sorted(record.time for records in by_segment.values() for record in records)
    assert len({record.id for record in found}) == len(data)
    for count in (0, 1, 5, 100):
        assert [head.time for head, _ in reader.last(folder, count)] == [record.time for record in found][
            len(found) - min(count, len(found)) :
        ]


def test_records_that_were_written_a_little_late_are_put_in_order(tmp_path: Path) -> None:
    """Of one worker, whose sends overlap, and of several, whose segments are named after the time of their creation."""
    write_segment(tmp_path, [one(at) for at in (0.010, 0.004, 0.020, 0.150, 0.021, 0.3, 0.25)], worker=WORKERS[0])
    write_segment(tmp_path, [one(at) for at in (0.011, 0.005, 0.022, 0.26)], worker=WORKERS[1], is_closed=True)
    found = seconds(tmp_path)
    assert len(found) == 11
    assert found == sorted(found)


def test_a_segment_that_was_created_after_its_first_record_was_ready_is_merged_in_time(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [one(0.05), one(0.15)], worker=WORKERS[0])
    later = write_segment(tmp_path, [one(0.1)], worker=WORKERS[1])
    assert later != path
    assert seconds(tmp_path) == [0.05, 0.1, 0.15]


def test_few_lines_are_held_back_however_many_come_at_once(tmp_path: Path) -> None:
    write_segment(tmp_path, [one(0.0001 * number) for number in range(1000)])
    found = reader.records(tmp_path)
    assert next(found).time == NOW
    assert len(list(found)) == 999


def test_many_segments_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        write_segment(tmp_path, [one(number), one(number + 0.5)], worker=f"{number:010x}", is_closed=number % 2 == 0)
    opened = most = 0

    def counted(segment: Segment) -> Iterator[bytes]:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        yield from read_lines(segment)
        opened -= 1

    monkeypatch.setattr(reader, "read_lines", counted)
    assert len(seconds(tmp_path)) == 400
    assert most <= 3


def test_filters(tmp_path: Path) -> None:
    records = [
        one(0, endpoint="a", status=200),
        one(1, endpoint="b", status=404, complete=False),
        one(2, endpoint="a", status=503, complete=False, elapsed_ms=900.0),
        one(3, endpoint="c", status=200, complete=False, elapsed_ms=500.0),
    ]
    write_segment(tmp_path, records[:2], is_closed=True)
    write_segment(tmp_path, records[2:], sequence=2)
    at = {number: NOW + timedelta(seconds=number) for number in range(4)}
    assert seconds(tmp_path, Filter(endpoints=frozenset({"a"}))) == [0, 2]
    assert seconds(tmp_path, Filter(since=at[1], until=at[3])) == [1, 2]
    assert seconds(tmp_path, Filter(statuses=frozenset({404, 5}))) == [1, 2]
    assert seconds(tmp_path, Filter(is_incomplete=True)) == [1, 2, 3]
    assert seconds(tmp_path, Filter(slower_than_ms=500.0)) == [2, 3]
    assert seconds(tmp_path, Filter(endpoints=frozenset({"a"}), is_incomplete=True)) == [2]


def test_closed_segments_outside_the_time_range_are_not_opened(tmp_path: Path) -> None:
    write_segment(tmp_path, [one(0)], is_closed=True).write_bytes(
        write_segment(tmp_path, [one(0)], sequence=2, is_closed=True).read_bytes()[:-30]
    )
    write_segment(tmp_path, [one(100)], sequence=3, is_closed=True)
    tally = Tally()
    assert [record.time for record in reader.records(tmp_path, Filter(since=NOW + timedelta(seconds=50)), tally)] == [
        NOW + timedelta(seconds=100)
    ]
    assert tally.unreadable is None


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [one(0), one(1)])
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(bytes(content) + b'{"v":1,"being writ')
    cut = write_segment(tmp_path, [one(2)], sequence=2, is_closed=True)
    cut.write_bytes(cut.read_bytes()[:-10])
    tally = Tally()
    assert len(list(reader.records(tmp_path, tally=tally))) <= 2
    assert tally.damaged == 1
    assert tally.unreadable is not None
    assert list(tally.unreadable) == [cut.name]
    verdicts = [verify(segment) for segment in listed(tmp_path)]
    assert next((verdict.damaged, verdict.torn_bytes > 0, verdict.fault is None) for verdict in verdicts) == (1, True, True)
    assert not any(verdict.is_sound for verdict in verdicts)


def test_a_record_is_found_by_its_id(tmp_path: Path) -> None:
    records = [one(number) for number in range(10)]
    write_segment(tmp_path, records)
    assert reader.find(tmp_path, records[3].id) == records[3]
    assert reader.find(tmp_path, records[3].id.upper()) == records[3]
    assert reader.find(tmp_path, "01a20427-74f8-70eb-9c27-06f92fa00d2f") is None
    assert reader.find(tmp_path, "no id") is None


def test_a_record_is_found_by_the_id_of_its_request_and_of_several_the_latest(tmp_path: Path) -> None:
    first, second, other = (one(number, asked={"id": name}) for number, name in enumerate(("retried", "retried", "once")))
    write_segment(tmp_path, [first], is_closed=True)
    write_segment(tmp_path, [second, other], sequence=2)
    assert reader.find(tmp_path, "retried") == second
    assert reader.find(tmp_path, "once") == other


def test_no_record_is_lost_when_the_clock_went_back(tmp_path: Path) -> None:
    write_segment(tmp_path, [one(100), one(101)], is_closed=True)
    write_segment(tmp_path, [one(10), one(11), one(9)], sequence=2, is_closed=True)
    assert sorted(seconds(tmp_path)) == [9, 10, 11, 100, 101]
    assert seconds(tmp_path, Filter(until=NOW + timedelta(seconds=50))) == [10, 11, 9]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(reader.records(tmp_path / "none"))


def test_a_follower_gets_each_new_record_exactly_once_in_every_form(tmp_path: Path) -> None:
    old, *new = [one(number) for number in range(6)]
    path = write_segment(tmp_path, [old])
    follower = Follower(tmp_path)
    assert list(follower.poll()) == []

    def grow(*records: Record, rest: bytes = b"") -> None:
        with path.open("ab") as file:
            file.write(b"".join(map(encode, records)) + rest)

    def fresh() -> list[str]:
        return [head.id for head, _ in follower.poll()]

    half = encode(new[1])
    grow(new[0], rest=half[:50])
    assert fresh() == [new[0].id]
    grow(rest=half[50:])
    assert fresh() == [new[1].id]
    grow(new[2])
    summary = verify(listed(tmp_path)[0])
    assert summary.records == 4
    found = scan(path).summary
    assert found is not None
    compress(path, found)
    write_segment(tmp_path, [new[3]], sequence=2)
    write_segment(tmp_path, [new[4]], sequence=3, is_closed=True)
    assert sorted(fresh()) == sorted([new[2].id, new[3].id, new[4].id])
    assert fresh() == []
    assert not list(tmp_path.glob(f"*000001{PLAIN}"))


def test_a_follower_starts_after_the_last_complete_line(tmp_path: Path) -> None:
    record = one(0)
    path = write_segment(tmp_path, [record])
    line = encode(one(1))
    path.write_bytes(encode(record) + line[:20])
    follower = Follower(tmp_path)
    path.write_bytes(encode(record) + line)
    assert len(list(follower.poll())) == 1


def test_statistics_are_counted_by_endpoint(tmp_path: Path) -> None:
    records = [
        one(number, endpoint="ab"[number % 2], elapsed_ms=float(number + 1), status=200 if number else 503, complete=number > 0)
        for number in range(10)
    ]
    write_segment(tmp_path, records)
    found = statistics(reader.lines(tmp_path))
    assert {name: of.records for name, of in found.items()} == {"a": 5, "b": 5}
    assert (found["a"].incomplete, found["a"].statuses[503], found["a"].elapsed.max_s) == (1, 1, 0.009)
    assert (found["b"].first, found["b"].last) == (records[1].time, records[9].time)
