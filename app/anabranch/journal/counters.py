"""What the journal has done since it was opened, for metrics, readiness and tests."""

from dataclasses import dataclass


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
