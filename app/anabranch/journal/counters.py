"""What the journal has done since it was opened, for metrics, the command and tests."""

from dataclasses import dataclass


@dataclass(slots=True)
class JournalCounters:
    """Totals of this process. `trouble`: why nothing can be written now, as a sentence; None when all is well."""

    written: int = 0
    """Records on the disk."""
    written_bytes: int = 0
    """Bytes on the disk, before compression."""
    commits: int = 0
    """Groups of records that were put on the disk, each by one fsync."""
    dropped: int = 0
    """Relaxed records that were given up: the queue was full, or the gateway stopped while nothing could be written."""
    refused: int = 0
    """Required records that were not on the disk in time: their responses were 503."""
    failures: int = 0
    """Attempts to write that failed."""
    segments: int = 0
    """Segments begun."""
    compressed: int = 0
    """Segments closed and compressed, those of dead workers included."""
    deleted: int = 0
    """Segments deleted by retention."""
    recovered: int = 0
    """Segments of dead workers that were put in order."""
    torn_bytes: int = 0
    """Bytes of torn lines that recovery cut off."""
    damaged: int = 0
    """Lines that recovery found damaged, and left where they were."""
    set_aside: int = 0
    """Files that looked like segments and could not be read."""
    trouble: str | None = None
