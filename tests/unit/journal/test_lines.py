"""The one way in which the lines of a segment are proven."""

from datetime import UTC, datetime

from anabranch.journal.lines import proven
from anabranch.journal.record import Record, RecordedRequest, encode


def line_of(v: int) -> bytes:
    request = RecordedRequest("r", "GET", "/e")
    time = datetime(2026, 11, 28, tzinfo=UTC)
    return encode(Record(v=v, id="1", time=time, endpoint="e", plan="p", status=200, complete=True, elapsed_ms=1.0, request=request))


RECORD = line_of(1)
LATER = line_of(9)


def test_a_proven_line_has_its_head_and_its_content() -> None:
    (line,) = proven([RECORD])
    assert line.head is not None
    assert line.head.request.path == "/e"
    assert line.content + b"\n" == line.raw == RECORD
    assert not line.is_torn


def test_damaged_lines_have_no_head_and_stop_nothing() -> None:
    swapped = RECORD.replace(b"200", b"500")
    heads = [line.head is None for line in proven([RECORD, swapped, b"\n", b"{}\n", LATER, RECORD])]
    assert heads == [False, True, True, True, True, False]


def test_nothing_is_read_behind_a_torn_line() -> None:
    lines = list(proven([RECORD, RECORD[:-1], RECORD]))
    assert [line.is_torn for line in lines] == [False, True]
    assert lines[1].head is None
