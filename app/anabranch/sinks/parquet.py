"""Writes records to a Parquet file (extra `parquet`), one row group at a time, so that memory does not grow with the number of records.

The only module that imports pyarrow. Parts without fixed columns (request, steps, bodies) are stored as JSON text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from anabranch.errors import MissingExtraError
from anabranch.journal.record import Content, Record

_ROWS: Final = 10_000
_GROUP_BYTES: Final = 32 * 1024 * 1024


def write_parquet(records: Iterable[Record], target: Path) -> int:
    """Write `records` to `target`. Returns how many. Raises MissingExtraError without pyarrow, and OSError."""
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet as pq  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("export to Parquet", "parquet") from None
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("endpoint", pa.dictionary(pa.int32(), pa.string())),
            ("plan", pa.dictionary(pa.int32(), pa.string())),
            ("status", pa.int16()),
            ("complete", pa.bool_()),
            ("failure", pa.dictionary(pa.int32(), pa.string())),
            ("elapsed_ms", pa.float64()),
            ("method", pa.dictionary(pa.int32(), pa.string())),
            ("path", pa.string()),
            ("query", pa.string()),
            ("request", pa.string()),
            ("steps", pa.string()),
            ("body", pa.string()),
        ]
    )
    count = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        size = 0
        for record in records:
            row = _row(record)
            rows.append(row)
            size += len(row["steps"]) + len(row["body"] or "")
            count += 1
            if len(rows) >= _ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows, size = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return count


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "time": record.time,
        "endpoint": record.endpoint,
        "plan": record.plan,
        "status": record.status,
        "complete": record.complete,
        "failure": record.failure,
        "elapsed_ms": record.elapsed_ms,
        "method": record.request.method,
        "path": record.request.path,
        "query": record.request.query,
        "request": _json(record.request),
        "steps": _json(record.steps),
        "body": None if record.body is None else _body(record.body),
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _body(content: Content) -> str:
    """Return the body itself if it is JSON, otherwise its `Content` as JSON."""
    return content.to_bytes().decode() if isinstance(content.json, msgspec.Raw) else _json(content)
