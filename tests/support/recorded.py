"""Hand-written journals: records with short defaults, and segments that contain them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from uuid_utils import uuid7

from anabranch.journal.record import Record, RecordedRequest, Step, encode, kept
from anabranch.journal.segment import PLAIN, SegmentName, Summary, compress

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
WORKER = "0123456789"


def answered(name: str, upstream: str, target: str, body: bytes, *, status: int = 200, method: str = "GET", **more: Any) -> Step:
    """A step whose call was answered."""
    return Step(
        name=name, upstream=upstream, method=method, target=target, status=status, attempts=1, body=kept(body) if body else None, **more
    )


def failed(name: str, upstream: str, target: str, code: str, **more: Any) -> Step:
    """A step whose call failed without an answer."""
    return Step(name=name, upstream=upstream, method="GET", target=target, failure=code, attempts=1, **more)


def recorded(path: str, body: bytes, steps: Iterable[Step], *, at_s: float = 0.0, **more: Any) -> Record:
    """A record of the endpoint `x`, `at_s` seconds after NOW."""
    asked = {"id": "r1", "method": more.pop("method", "GET"), "query": more.pop("query", ""), **more.pop("asked", {})}
    request = RecordedRequest(path=path, **asked)
    defaults = {"endpoint": "x", "status": 200, "complete": True, "elapsed_ms": 5.0}
    return Record(
        v=1,
        id=str(uuid7()),
        time=NOW + timedelta(seconds=at_s),
        plan="0" * 16,
        request=request,
        steps=list(steps),
        body=kept(body) if body else None,
        **{**defaults, **more},
    )


def write_segment(folder: Path, records: list[Record], *, sequence: int = 1, worker: str = WORKER, is_closed: bool = False) -> Path:
    """Write one segment with these records; return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [encode(record) for record in records]
    path = folder / f"{SegmentName(records[0].time, worker, sequence)}{PLAIN}"
    path.write_bytes(b"".join(lines))
    if not is_closed:
        return path
    times = [record.time for record in records]
    return compress(path, Summary(records=len(lines), size_bytes=sum(map(len, lines)), first=min(times), last=max(times)))
