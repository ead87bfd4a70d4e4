"""What the journal has done since it was opened, for metrics, readiness and tests."""

from dataclasses import dataclass
from typing import Final

from anabranch.core.metric import metric

JOURNAL_QUEUE: Final = metric("gauge", "journal_queue_records", "", "Records waiting to be written or being written.")
JOURNAL_QUEUE_BYTES: Final = metric("gauge", "journal_queue_bytes", "", "Bytes of the records waiting to be written or being written.")
JOURNAL_LAG: Final = metric("gauge", "journal_lag_seconds", "", "Age of the oldest record that waits to be written.")
JOURNAL_RECORDS: Final = metric("counter", "journal_records", "", "Records written to disk.")
JOURNAL_BYTES: Final = metric("counter", "journal_bytes", "", "Bytes of records written to disk, before compression.")
JOURNAL_COMMITS: Final = metric("counter", "journal_commits", "", "Groups of records written to disk, each with one fsync.")
JOURNAL_DROPPED: Final = metric(
    "counter",
    "journal_dropped",
    "reason",
    "Discarded records. `reason`: `full` (relaxed records: no room in the queue) or `refused` (required records: the response was 503).",
)
JOURNAL_FAILURES: Final = metric("counter", "journal_write_failures", "", "Failed attempts to write.")
JOURNAL_DAMAGED: Final = metric("counter", "journal_damaged_lines", "", "Damaged lines found by recovery.")
JOURNAL_TORN: Final = metric("counter", "journal_torn_bytes", "", "Bytes of torn lines cut off by recovery.")
JOURNAL_WRITABLE: Final = metric("gauge", "journal_writable", "", "0 while the journal cannot be written.")


@dataclass(slots=True)
class JournalCounters:
    """Totals of this process. `trouble`: why the journal cannot be written at the moment, human-readable; None while it can."""

    written: int = 0
    """Records written to disk."""
    written_bytes: int = 0
    """Bytes written to disk, before compression."""
    commits: int = 0
    """Groups of records written to disk, each with one fsync."""
    dropped: int = 0
    """Relaxed records that were discarded: the queue was full, encoding failed, or the gateway stopped while the disk failed."""
    refused: int = 0
    """Required records that were not on disk in time. Their requests were answered with 503."""
    failures: int = 0
    """Attempts to write that failed."""
    segments: int = 0
    """Segments created."""
    compressed: int = 0
    """Segments closed and compressed, those of dead workers included."""
    deleted: int = 0
    """Segments deleted by retention."""
    recovered: int = 0
    """Segments of dead workers that were recovered."""
    torn_bytes: int = 0
    """Bytes of torn lines that recovery cut off."""
    damaged: int = 0
    """Damaged lines that recovery found and left in place."""
    set_aside: int = 0
    """Files with the name of a segment that could not be read, and were renamed."""
    trouble: str | None = None
