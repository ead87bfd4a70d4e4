"""Records are built a few at a time, in order, and one that cannot be built does not affect the others."""

from datetime import UTC, datetime

import pytest

from anabranch.journal.batch import Batch

_TIME = datetime(2026, 1, 2, tzinfo=UTC)


class _Deferred:
    def __init__(self, line: bytes | None) -> None:
        self._line = line

    def write(self, lines: bytearray) -> datetime:
        lines += b"begun"
        if self._line is None:
            raise ValueError("nothing to make it of")
        lines[-5:] = self._line + b"\n"
        return _TIME


class _Bench:
    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.lost = 0
        self.batch = Batch(self._take, self._lose)

    def _take(self, lines: bytes, times: list[datetime]) -> None:
        made = lines.splitlines()
        assert times == [_TIME] * len(made)
        self.taken += made

    def _lose(self, records: int) -> None:
        self.lost += records


def test_records_are_built_on_demand_and_in_order() -> None:
    bench = _Bench()
    for line in (b"1", b"2", b"3"):
        bench.batch.add(_Deferred(line), 1)
    assert (bench.taken, len(bench.batch)) == ([], 3)
    bench.batch.encode()
    assert (bench.taken, len(bench.batch)) == ([b"1", b"2", b"3"], 0)
    bench.batch.encode()
    assert bench.taken == [b"1", b"2", b"3"]


def test_records_are_built_in_batches_of_bounded_size() -> None:
    bench = _Bench()
    for number in range(100):
        bench.batch.add(_Deferred(b"%d" % number), 1)
        assert len(bench.batch) < 32
    bench.batch.encode()
    assert bench.taken == [b"%d" % number for number in range(100)]


def test_a_large_response_triggers_building_at_once() -> None:
    bench = _Bench()
    bench.batch.add(_Deferred(b"small"), 1000)
    assert bench.taken == []
    bench.batch.add(_Deferred(b"large"), 10_000_000)
    assert bench.taken == [b"small", b"large"]


def test_a_record_that_cannot_be_built_is_logged_and_the_others_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    bench = _Bench()
    for line in (b"1", None, b"3"):
        bench.batch.add(_Deferred(line), 1)
    bench.batch.encode()
    assert (bench.taken, bench.lost) == ([b"1", b"3"], 1)
    assert "a journal record could not be encoded" in caplog.text
