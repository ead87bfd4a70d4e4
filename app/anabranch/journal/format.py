"""Formats records, segments and statistics for `anabranch journal`: human-readable lines, and objects for programs."""

from collections.abc import Iterator
from datetime import UTC
from typing import Final

from anabranch.journal.record import Record
from anabranch.journal.segment import Segment
from anabranch.journal.statistics import EndpointStatistics
from anabranch.journal.verify import Verdict

_SHOWN_PATH_CHARS: Final = 100


def record_line(record: Record) -> str:
    request = record.request
    target = f"{request.path}?{request.query}" if request.query else request.path
    if len(target) > _SHOWN_PATH_CHARS:
        target = f"{target[:_SHOWN_PATH_CHARS]}..."
    state = record.failure or ("complete" if record.complete else "partial")
    time_ = record.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{time_}  {record.id}  {record.status}  {state:<8}  {record.elapsed_ms:>9.1f} ms  {record.endpoint}  {request.method} {target}"


def segment_line(segment: Segment) -> str:
    summary = segment.summary
    content = "open" if summary is None else f"{summary.records} records until {summary.last.isoformat(timespec='milliseconds')}"
    return f"{segment.path.name}  {size(segment.size_bytes)}  {content}"


def verdict_line(segment: Segment, verdict: Verdict) -> str | None:
    """Describe what is wrong in a segment; None when nothing is."""
    if not verdict.is_sound:
        faults = [counted(verdict.damaged, "damaged line")] * bool(verdict.damaged) + ([verdict.fault] if verdict.fault else [])
        faults += [f"{counted(verdict.torn_bytes, 'torn byte')} at the end"] * bool(verdict.torn_bytes)
        return f"{segment.path.name}: {verdict.records} records, {', '.join(faults)}"
    if verdict.torn_bytes:
        return f"{segment.path.name}: the last line is incomplete: it is being written, or the next gateway that starts here cuts it off"
    return None


def statistics_table(found: dict[str, EndpointStatistics]) -> Iterator[str]:
    """Yield a header line and one line for each endpoint. `found` must not be empty."""
    width = max(8, *(len(name) for name in found))
    yield f"{'endpoint':<{width}}  {'records':>9}  {'partial':>8}  {'5xx':>7}  {'p50 ms':>9}  {'p95 ms':>9}  {'p99 ms':>9}  {'max ms':>9}"
    for name, entry in sorted(found.items()):
        p50, p95, p99 = (value * 1000 for value in entry.elapsed.quantiles((0.5, 0.95, 0.99)))
        failed = sum(count for status, count in entry.statuses.items() if status >= 500)
        partial = entry.incomplete - sum(entry.failures.values())
        yield (
            f"{name:<{width}}  {entry.records:>9}  {partial:>8}  {failed:>7}  {p50:>9.1f}  {p95:>9.1f}  {p99:>9.1f}  "
            f"{entry.elapsed.max_s * 1000:>9.1f}"
        )


def statistics_object(entry: EndpointStatistics) -> dict[str, object]:
    p50, p95, p99 = (round(value * 1000, 3) for value in entry.elapsed.quantiles((0.5, 0.95, 0.99)))
    return {
        "records": entry.records,
        "incomplete": entry.incomplete,
        "size_bytes": entry.size_bytes,
        "first": entry.first,
        "last": entry.last,
        "statuses": {str(status): count for status, count in sorted(entry.statuses.items())},
        "failures": dict(sorted(entry.failures.items())),
        "elapsed_ms": {"p50": p50, "p95": p95, "p99": p99, "max": round(entry.elapsed.max_s * 1000, 3)},
    }


def size(size_bytes: int) -> str:
    """Format a size human-readably, with about three digits."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
