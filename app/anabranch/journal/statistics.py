"""Aggregates the records of a journal by endpoint, in memory that does not grow with the number of records."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from anabranch.core.quantile import Sketch
from anabranch.journal.record import Head


@dataclass(slots=True)
class EndpointStatistics:
    """`statuses`: responses by status. `failures`: responses by problem code. `size_bytes`: of the records' lines, uncompressed."""

    records: int = 0
    incomplete: int = 0
    size_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    elapsed: Sketch = field(default_factory=Sketch)

    def add(self, head: Head, size_bytes: int) -> None:
        self.records += 1
        self.incomplete += not head.complete
        self.size_bytes += size_bytes
        self.first = head.time if self.first is None or head.time < self.first else self.first
        self.last = head.time if self.last is None or head.time > self.last else self.last
        self.statuses[head.status] += 1
        if head.failure is not None:
            self.failures[head.failure] += 1
        self.elapsed.add(head.elapsed_ms / 1000)


def statistics(lines: Iterable[tuple[Head, bytes]]) -> dict[str, EndpointStatistics]:
    """Return the statistics by endpoint name, in the order of each endpoint's first record."""
    found: dict[str, EndpointStatistics] = {}
    for head, line in lines:
        entry = found.get(head.endpoint)
        if entry is None:
            entry = found[head.endpoint] = EndpointStatistics()
        entry.add(head, len(line))
    return found
