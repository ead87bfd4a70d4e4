"""`anabranch journal`: looks into a journal's folder. Reads only, also while gateways write. Exit codes: 0, 2 for a command that is used wrongly
(a folder that is not there included), 3 for a journal that is damaged."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from app.config.units import parse_duration
from app.errors import MissingExtraError
from app.journal.follow import Follower, follow
from app.journal.parquet import write_parquet
from app.journal.reader import EVERYTHING, Filter, Tally, find, last, lines, merged
from app.journal.record import Head, Record, RecordError, read_record
from app.journal.segment import Segment, listed
from app.journal.statistics import EndpointStatistics, statistics
from app.journal.verify import verify as verify_segment
from app.settings import Settings

T = TypeVar("T")

BAD_USE: Final = 2
DAMAGED: Final = 3
_SHOWN_PATH_CHARS: Final = 100

journal = typer.Typer(help="Look into a journal: its records, its statistics, its checksums.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[
    Path | None,
    typer.Option("--journal", "-j", metavar="DIR", help="The journal's folder; ANABRANCH_JOURNAL_PATH or `journal` without it."),
]
Endpoint = Annotated[list[str] | None, typer.Option("--endpoint", "-e", metavar="NAME", help="Only of this endpoint; may be repeated.")]
Since = Annotated[str | None, typer.Option(help="Not before: a duration ago such as 1h, or a time such as 2026-11-22T16:00Z.")]
Until = Annotated[str | None, typer.Option(help="Only before: as --since.")]
Status = Annotated[list[str] | None, typer.Option(metavar="STATUS", help="Only with this status, such as 404 or 5xx; may be repeated.")]
Incomplete = Annotated[bool, typer.Option("--incomplete", help="Only where a step failed.")]
Slow = Annotated[str | None, typer.Option(metavar="DURATION", help="Only what took at least so long, such as 500ms.")]


@journal.command()
def ls(
    folder: Folder = None,
    endpoint: Endpoint = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    incomplete: Incomplete = False,
    slow: Slow = None,
    segments: Annotated[bool, typer.Option("--segments", help="List the files instead of the records.")] = False,
) -> None:
    """List records by time, one line each."""
    path, where = _folder(folder), _filter(endpoint, since, until, status, is_incomplete=incomplete, slow=slow)
    with _reading(path):
        if segments:
            _list_segments([segment for segment in listed(path) if where.may_be_in(segment)])
            return
        tally = Tally()
        _print_lines(lines(path, where, tally), tally)
        _warn(tally)
        if not tally.records:
            typer.echo(_nothing(path, where), err=True)


@journal.command()
def tail(
    folder: Folder = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="So many of the last records.")] = 10,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records as they come. Ctrl-C ends it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Whole records, as JSON lines.")] = False,
    endpoint: Endpoint = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    incomplete: Incomplete = False,
    slow: Slow = None,
) -> None:
    """Show the last records, and with -f those that come."""
    path, where = _folder(folder), _filter(endpoint, since, until, status, is_incomplete=incomplete, slow=slow)
    with _reading(path):
        follower = Follower(path, where) if is_followed else None
        tally = Tally()
        found = last(path, count, where, tally)
        _print_lines(found, tally, is_json=as_json)
        _warn(tally)
        if follower is None:
            if not found:
                typer.echo(_nothing(path, where), err=True)
            return
        shown = {head.id for head, _ in found}
        fresh = ((head, line) for head, line in follow(follower, sleep=time.sleep) if head.id not in shown)
        try:
            _print_lines(fresh, tally, is_json=as_json)
        except KeyboardInterrupt:
            return


@journal.command()
def show(record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")], folder: Folder = None) -> None:
    """Show one record, whole."""
    path = _folder(folder)
    with _reading(path):
        record = find(path, record_id)
    if record is None:
        _refuse(f"there is no record {record_id} in {path}")
    # msgspec only moves the white space: numbers stay as they are spelled.
    _write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


@journal.command()
def stats(
    folder: Folder = None,
    endpoint: Endpoint = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    incomplete: Incomplete = False,
    slow: Slow = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Count records, failures and durations, endpoint by endpoint."""
    path, where = _folder(folder), _filter(endpoint, since, until, status, is_incomplete=incomplete, slow=slow)
    with _reading(path):
        segments = [segment for segment in listed(path) if where.may_be_in(segment)]
        tally = Tally()
        found = statistics(_progress(merged(segments, where, tally), segments, tally))
    if as_json:
        _write(msgspec.json.format(msgspec.json.encode({name: _as_json(of) for name, of in found.items()}), indent=2) + b"\n")
    elif found:
        _print_table(found)
        typer.echo(f"{tally.records} records in {_counted(len(segments), 'segment')}, {_size(sum(s.size_bytes for s in segments))}")
    else:
        typer.echo(_nothing(path, where), err=True)
    _warn(tally)


@journal.command()
def verify(folder: Folder = None) -> None:
    """Check every checksum. Exit code 3 when something is damaged."""
    path = _folder(folder)
    with _reading(path):
        segments = listed(path)
    records = damaged = 0
    tally = Tally()
    for segment in _progress(segments, segments, tally):
        verdict = verify_segment(segment)
        tally.bytes_read += segment.size_bytes
        records += verdict.records
        if not verdict.is_sound:
            damaged += 1
            faults = [f"{verdict.damaged} damaged lines"] * bool(verdict.damaged) + ([verdict.fault] if verdict.fault else [])
            faults += [f"{verdict.torn_bytes} torn bytes at the end"] * bool(verdict.torn_bytes)
            typer.echo(f"{segment.path.name}: {verdict.records} records, {', '.join(faults)}")
        elif verdict.torn_bytes:
            typer.echo(
                f"{segment.path.name}: its last line is not whole: it is being written, or is cut off when a gateway next starts here"
            )
    typer.echo(f"{records} records in {_counted(len(segments), 'segment')}: {f'{damaged} damaged' if damaged else 'all sound'}")
    if damaged:
        raise typer.Exit(DAMAGED)


@journal.command()
def export(
    folder: Folder = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of the screen.")] = None,
    format_: Annotated[Literal["ndjson", "parquet"], typer.Option("--format", help="`parquet` needs the extra of that name.")] = "ndjson",
    endpoint: Endpoint = None,
    since: Since = None,
    until: Until = None,
    status: Status = None,
    incomplete: Incomplete = False,
    slow: Slow = None,
) -> None:
    """Write records by time as JSON lines (as they are, checksum included) or as a Parquet file."""
    path, where = _folder(folder), _filter(endpoint, since, until, status, is_incomplete=incomplete, slow=slow)
    if format_ == "parquet" and output is None:
        _refuse("--format parquet writes a file: give --output")
    tally = Tally()
    with _reading(path):
        segments = [segment for segment in listed(path) if where.may_be_in(segment)]
        found = _progress(merged(segments, where, tally), segments, tally)
        try:
            if output is None:
                _write_all(found)
            elif format_ == "parquet":
                write_parquet(_records(found, tally), output)
            else:
                with output.open("wb") as file:
                    file.writelines(line + b"\n" for _, line in found)
        except BrokenPipeError:
            raise
        except MissingExtraError as error:
            _refuse(str(error))
        except OSError as error:
            _refuse(f"cannot write {output}: {error.strerror or error}")
    _warn(tally)
    typer.echo(f"{_counted(tally.records, 'record')} exported", err=True)


# ------------------------------------------------------------------------------------------------------------- options


def _folder(given: Path | None) -> Path:
    path = given or Settings().journal_path or Path("journal")
    if not path.is_dir():
        hint = "" if given else "; name it with --journal DIR"
        _refuse(f"there is no journal: {path} is {'not a folder' if path.exists() else 'not there'}{hint}")
    return path


def _filter(
    endpoints: list[str] | None, since: str | None, until: str | None, statuses: list[str] | None, *, is_incomplete: bool, slow: str | None
) -> Filter:
    slower_than_ms = None
    if slow is not None:
        try:
            slower_than_ms = parse_duration(slow) * 1000
        except ValueError as error:
            _refuse(f"--slow: {error}")
    return Filter(
        endpoints=frozenset(endpoints or ()),
        since=_moment("--since", since),
        until=_moment("--until", until),
        statuses=frozenset(_status(text) for text in statuses or ()),
        is_incomplete=is_incomplete,
        slower_than_ms=slower_than_ms,
    )


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _refuse(f"{option}: {text!r} is neither a duration such as 1h nor a time such as 2026-11-22T16:00Z")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _status(text: str) -> int:
    digits = text.lower().removesuffix("xx")
    is_status = digits.isascii() and digits.isdecimal() and (len(text), len(digits)) in ((3, 3), (3, 1))
    return int(digits) if is_status else _refuse(f"--status: {text!r} is neither a status such as 404 nor a class such as 5xx")


# -------------------------------------------------------------------------------------------------------------- output


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not try to flush what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except OSError as error:
        _refuse(f"the journal {path} cannot be read: {error.strerror or error}")


def _progress(items: Iterable[T], segments: list[Segment], tally: Tally) -> Iterator[T]:
    """`items` as they are; on a terminal with a bar of how much of the segments is read."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not segments):
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=sum(segment.size_bytes for segment in segments))
        for number, item in enumerate(items):
            if not number % 1000:
                progress.update(task, completed=tally.bytes_read)
            yield item


def _records(found: Iterable[tuple[Head, bytes]], tally: Tally) -> Iterator[Record]:
    for _, line in found:
        try:
            yield read_record(line)
        except RecordError:
            tally.damaged += 1


def _print_lines(found: Iterable[tuple[Head, bytes]], tally: Tally, *, is_json: bool = False) -> None:
    for head, line in found:
        if is_json:
            _write(line + b"\n")
            continue
        for record in _records([(head, line)], tally):
            _write(f"{_shown(record)}\n".encode())


def _shown(record: Record) -> str:
    request = record.request
    target = f"{request.path}?{request.query}" if request.query else request.path
    if len(target) > _SHOWN_PATH_CHARS:
        target = f"{target[:_SHOWN_PATH_CHARS]}..."
    state = record.failure or ("complete" if record.complete else "partial")
    time_ = record.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{time_}  {record.id}  {record.status}  {state:<8}  {record.elapsed_ms:>9.1f} ms  {record.endpoint}  {request.method} {target}"


def _list_segments(segments: list[Segment]) -> None:
    for segment in segments:
        summary = segment.summary
        what = "open" if summary is None else f"{summary.records} records until {summary.last.isoformat(timespec='milliseconds')}"
        typer.echo(f"{segment.path.name}  {_size(segment.size_bytes)}  {what}")


def _print_table(found: dict[str, EndpointStatistics]) -> None:
    width = max(8, *(len(name) for name in found))
    typer.echo(
        f"{'endpoint':<{width}}  {'records':>9}  {'partial':>8}  {'5xx':>7}  {'p50 ms':>9}  {'p95 ms':>9}  {'p99 ms':>9}  {'max ms':>9}"
    )
    for name, of in sorted(found.items()):
        p50, p95, p99 = (value * 1000 for value in of.elapsed.quantiles((0.5, 0.95, 0.99)))
        failed = sum(count for status, count in of.statuses.items() if status >= 500)
        partial = of.incomplete - sum(of.failures.values())
        typer.echo(
            f"{name:<{width}}  {of.records:>9}  {partial:>8}  {failed:>7}  {p50:>9.1f}  {p95:>9.1f}  {p99:>9.1f}  "
            f"{of.elapsed.max_s * 1000:>9.1f}"
        )


def _as_json(of: EndpointStatistics) -> dict[str, object]:
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


def _size(size_bytes: int) -> str:
    """A size for the eye: three digits or so."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def _nothing(path: Path, where: Filter) -> str:
    return f"there are no records in {path}" + ("" if where == EVERYTHING else " that these options ask for")


def _warn(tally: Tally) -> None:
    if tally.damaged:
        typer.echo(f"{tally.damaged} damaged lines were passed over; `anabranch journal verify` says where", err=True)
    for name, reason in (tally.unreadable or {}).items():
        typer.echo(f"{name}: {reason}", err=True)


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _write_all(found: Iterable[tuple[Head, bytes]]) -> None:
    out = sys.stdout.buffer
    for _, line in found:
        out.write(line)
        out.write(b"\n")
    out.flush()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(BAD_USE)
