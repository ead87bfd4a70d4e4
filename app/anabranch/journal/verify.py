"""Verifies a journal: the checksum of every line in every segment, and that of every closed segment. Changes nothing. Blocking."""

from dataclasses import dataclass

from anabranch.journal.record import RecordError, check
from anabranch.journal.segment import Segment, SegmentDamaged, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result for one segment. `damaged`: lines with a wrong checksum. `torn_bytes`: of an incomplete last line; in a plain segment that
    line may still be being written, and recovery cuts it off if not. `fault`: why the segment cannot be read to its end; None when it
    can."""

    segment: Segment
    records: int
    damaged: int
    torn_bytes: int
    fault: str | None

    @property
    def is_sound(self) -> bool:
        return not self.damaged and self.fault is None and not (self.segment.is_closed and self.torn_bytes)


def verify(segment: Segment) -> Verdict:
    """Verify a whole segment."""
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
        fault = f"its summary says {segment.summary.records} records"
    return Verdict(segment=segment, records=records, damaged=damaged, torn_bytes=torn_bytes, fault=fault)
