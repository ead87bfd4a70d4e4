"""Records, segments and statistics as `anabranch journal` shows them: lines for the eye, and objects for programs. Knows no terminal."""

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
    what = "open" if summary is None else f"{summary.records} records until {summary.last.isoformat(timespec='milliseconds')}"
    return f"{segment.path.name}  {size(segment.size_bytes)}  {what}"


def verdict_line(segment: Segment, verdict: Verdict) -> str | None:
    """What is to be said of a segment's checksums; None when all is well."""
    if not verdict.is_sound:
        faults = [f"{verdict.damaged} damaged lines"] * bool(verdict.damaged) + ([verdict.fault] if verdict.fault else [])
        faults += [f"{verdict.torn_bytes} torn bytes at the end"] * bool(verdict.torn_bytes)
        return f"{segment.path.name}: {verdict.records} records, {', '.join(faults)}"
    if verdict.torn_bytes:
        return f"{segment.path.name}: its last line is not whole: it is being written, or is cut off when a gateway next starts here"
    return None


def statistics_table(found: dict[str, EndpointStatistics]) -> Iterator[str]:
    """A line with the columns' names, and one for each endpoint. There must be one."""
    width = max(8, *(len(name) for name in found))
    yield f"{'endpoint':<{width}}  {'records':>9}  {'partial':>8}  {'5xx':>7}  {'p50 ms':>9}  {'p95 ms':>9}  {'p99 ms':>9}  {'max ms':>9}"
    for name, of in sorted(found.items()):
        p50, p95, p99 = (value * 1000 for value in of.elapsed.quantiles((0.5, 0.95, 0.99)))
        failed = sum(count for status, count in of.statuses.items() if status >= 500)
        partial = of.incomplete - sum(of.failures.values())
        yield (
            f"{name:<{width}}  {of.records:>9}  {partial:>8}  {failed:>7}  {p50:>9.1f}  {p95:>9.1f}  {p99:>9.1f}  "
            f"{of.elapsed.max_s * 1000:>9.1f}"
        )


def statistics_object(of: EndpointStatistics) -> dict[str, object]:
    p50, p95, p99 = (round(value * 1000, 3) for value in of.elapsed.quantiles((0.5, 0.95, 0.99)))
    return {
        "records": of.records,
        "incomplete": of.incomplete,
        "size_bytes": of.size_bytes,
        "first": of.first,
        "last": of.last,
        "statuses": {str(status): count for status, count in sorted(of.statuses.items())},
        "failures": dict(sorted(of.failures.items())),
        "elapsed_ms": {"p50": p50, "p95": p95, "p99": p99, "max": round(of.elapsed.max_s * 1000, 3)},
    }


def size(size_bytes: int) -> str:
    """A size for the eye: three digits or so."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
