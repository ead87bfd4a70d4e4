"""Proves a journal: every line of every segment by its checksum, every closed segment by its own. Changes nothing. Blocking."""

from dataclasses import dataclass

from anabranch.journal.record import RecordError, check
from anabranch.journal.segment import Segment, SegmentDamaged, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is in one segment. `damaged`: lines whose checksum is wrong. `torn_bytes`: of a last line that is not whole; in a plain segment
    it may be just being written, and recovery cuts it off. `fault`: why it cannot be read to its end; None when it can."""

    segment: Segment
    records: int
    damaged: int
    torn_bytes: int
    fault: str | None

    @property
    def is_sound(self) -> bool:
        return not self.damaged and self.fault is None and not (self.segment.is_closed and self.torn_bytes)


def verify(segment: Segment) -> Verdict:
    """Read a segment from its beginning to its end."""
    records = damaged = torn_bytes = 0
    fault = None
    try:
        for raw in read_lines(segment):
            if raw[-1:] != b"\n":
                torn_bytes = len(raw)
                break
            try:
                check(raw[:-1])
            except RecordError:
                damaged += 1
            else:
                records += 1
    except SegmentDamaged as error:
        fault = str(error)
    except OSError as error:
        fault = error.strerror or str(error)
    if fault is None and segment.summary is not None and records + damaged < segment.summary.records:
        fault = f"it should have {segment.summary.records} records"
    return Verdict(segment=segment, records=records, damaged=damaged, torn_bytes=torn_bytes, fault=fault)
