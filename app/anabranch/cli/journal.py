"""`anabranch journal`: inspects a journal's folder. Only reads, so it is safe while gateways write. Exit codes: 0; 2 for wrong usage,
including a missing folder and options that no record matches; 3 for a damaged journal."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import msgspec
import typer

from anabranch.cli.lazy import LazyGroup, Listed
from anabranch.cli.process import settings_of
from anabranch.cli.records import Folder, filtered, usage_error, warn, with_progress
from anabranch.errors import MissingExtraError
from anabranch.journal.filter import EVERYTHING, Filter
from anabranch.journal.follow import Follower, follow
from anabranch.journal.format import counted, record_line, segment_line, size, statistics_object, statistics_table, verdict_line
from anabranch.journal.reader import Tally, find, last, lines, merged
from anabranch.journal.record import Head, Record, RecordError, read_record
from anabranch.journal.segment import listed
from anabranch.journal.statistics import statistics
from anabranch.journal.verify import verify as verify_segment
from anabranch.sinks.parquet import write_parquet

DAMAGED: Final = 3


class _Journal(LazyGroup):
    listed: ClassVar[Mapping[str, Listed]] = {
        "ship": Listed("anabranch.cli.ship:ship", "Ship all records of a journal that have not been shipped yet."),
    }


journal = typer.Typer(cls=_Journal, help="Inspect a journal: records, statistics, checksums.", no_args_is_help=True, rich_markup_mode=None)


@journal.command()
@filtered
def ls(
    where: Filter,
    folder: Folder = None,
    segments: Annotated[bool, typer.Option("--segments", help="List the segment files instead of the records.")] = False,
) -> None:
    """List records in order of time, one line each."""
    path = _folder(folder)
    with _reading(path):
        if segments:
            chosen = [segment for segment in listed(path) if where.may_be_in(segment)]
            for segment in chosen:
                typer.echo(segment_line(segment))
            if not chosen:
                usage_error(_nothing("segments", path, where))
            return
        tally = Tally()
        _print_lines(lines(path, where, tally), tally)
        warn(tally)
        if not tally.records:
            usage_error(_nothing("records", path, where))


@journal.command()
@filtered
def tail(
    where: Filter,
    folder: Folder = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many of the last records to show.")] = 10,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new records until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print complete records as JSON lines.")] = False,
) -> None:
    """Show the last records; with -f, also new ones."""
    path = _folder(folder)
    with _reading(path):
        follower = Follower(path, where) if is_followed else None
        tally = Tally()
        found = last(path, count, where, tally)
        _print_lines(found, tally, is_json=as_json)
        warn(tally)
        if follower is None:
            if not found:
                usage_error(_nothing("records", path, where))
            return
        shown = {head.id for head, _ in found}
        fresh = ((head, line) for head, line in follow(follower, sleep=time.sleep) if head.id not in shown)
        try:
            _print_lines(fresh, tally, is_json=as_json)
        except KeyboardInterrupt:
            return


@journal.command()
def show(
    record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's id, or the X-Request-Id of its request.")],
    folder: Folder = None,
) -> None:
    """Show one complete record."""
    path = _folder(folder)
    with _reading(path):
        record = find(path, record_id)
    if record is None:
        usage_error(f"there is no record {record_id} in {path}")
    # msgspec only changes whitespace: numbers keep their spelling.
    _write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


@journal.command()
@filtered
def stats(
    where: Filter,
    folder: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the number of records and failures, and the durations, of each endpoint."""
    path = _folder(folder)
    with _reading(path):
        segments = [segment for segment in listed(path) if where.may_be_in(segment)]
        tally = Tally()
        found = statistics(with_progress(merged(segments, where, tally), segments, tally, "reading"))
    if as_json:
        _write(msgspec.json.format(msgspec.json.encode({name: statistics_object(of) for name, of in found.items()}), indent=2) + b"\n")
    elif found:
        typer.echo("\n".join(statistics_table(found)))
        typer.echo(f"{tally.records} records in {counted(len(segments), 'segment')}, {size(sum(s.size_bytes for s in segments))}")
    warn(tally)
    if not found:
        usage_error(_nothing("records", path, where))


@journal.command()
def verify(folder: Folder = None) -> None:
    """Check every checksum. Exit code 3 if the journal is damaged."""
    path = _folder(folder)
    with _reading(path):
        segments = listed(path)
    if not segments:
        usage_error(_nothing("segments", path, EVERYTHING))
    records = damaged = 0
    tally = Tally()
    for segment in with_progress(segments, segments, tally, "checking"):
        verdict = verify_segment(segment)
        tally.bytes_read += segment.size_bytes
        records += verdict.records
        damaged += not verdict.is_sound
        if (shown := verdict_line(segment, verdict)) is not None:
            typer.echo(shown)
    typer.echo(f"{records} records in {counted(len(segments), 'segment')}: {f'{damaged} damaged' if damaged else 'all sound'}")
    if damaged:
        raise typer.Exit(DAMAGED)


@journal.command()
@filtered
def export(
    where: Filter,
    folder: Folder = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")] = None,
    format_: Annotated[Literal["ndjson", "parquet"], typer.Option("--format", help="`parquet` needs the extra `parquet`.")] = "ndjson",
) -> None:
    """Export records in order of time, as JSON lines (unchanged, including checksums) or as a Parquet file."""
    path = _folder(folder)
    if format_ == "parquet" and output is None:
        usage_error("--format parquet needs --output FILE")
    tally = Tally()
    with _reading(path):
        segments = [segment for segment in listed(path) if where.may_be_in(segment)]
        found = with_progress(merged(segments, where, tally), segments, tally, "reading")
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
            usage_error(str(error))
        except OSError as error:
            usage_error(f"cannot write {output}: {error.strerror or error}")
    warn(tally)
    if not tally.records:
        usage_error(f"nothing was exported: {_nothing('records', path, where)}")
    typer.echo(f"{counted(tally.records, 'record')} exported", err=True)


# ------------------------------------------------------------------------------------------------------------- reading


def _folder(given: Path | None) -> Path:
    path = given or settings_of().journal_path or Path("journal")
    if not path.is_dir():
        hint = "" if given else "; name its folder with --journal DIR"
        usage_error(f"there is no journal: {path} {'is not a folder' if path.exists() else 'does not exist'}{hint}")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # The reader of the output has closed the pipe; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except OSError as error:
        usage_error(f"the journal {path} cannot be read: {error.strerror or error}")


def _records(found: Iterable[tuple[Head, bytes]], tally: Tally) -> Iterator[Record]:
    for _, line in found:
        try:
            yield read_record(line)
        except RecordError:
            tally.damaged += 1


# ------------------------------------------------------------------------------------------------------------- writing


def _print_lines(found: Iterable[tuple[Head, bytes]], tally: Tally, *, is_json: bool = False) -> None:
    for head, line in found:
        if is_json:
            _write(line + b"\n")
            continue
        for record in _records([(head, line)], tally):
            _write(f"{record_line(record)}\n".encode())


def _nothing(what: str, path: Path, where: Filter) -> str:
    return f"there are no {what} in {path}" + ("" if where == EVERYTHING else " that match these options")


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _write_all(found: Iterable[tuple[Head, bytes]]) -> None:
    out = sys.stdout.buffer
    for _, line in found:
        out.write(line)
        out.write(b"\n")
    out.flush()
