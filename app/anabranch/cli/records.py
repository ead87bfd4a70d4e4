"""Shared by the commands that read a journal: filter options, the progress bar, and warnings about unreadable lines. Exit code 2 for an
invalid option."""

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from anabranch.cli.options import BAD_USE
from anabranch.config.units import parse_duration
from anabranch.journal.reader import Filter, Tally
from anabranch.journal.segment import Segment

T = TypeVar("T")

_UPDATE_EVERY: Final = 100

Folder = Annotated[
    Path | None,
    typer.Option("--journal", "-j", metavar="DIR", help="The journal's folder. Default: ANABRANCH_JOURNAL_PATH, or else `journal`."),
]
Endpoint = Annotated[list[str] | None, typer.Option("--endpoint", "-e", metavar="NAME", help="Only this endpoint; may be repeated.")]
Since = Annotated[str | None, typer.Option(help="Only from this time on: an age such as 1h, or a time such as 2026-11-22T16:00Z.")]
Until = Annotated[str | None, typer.Option(help="Only before this time: an age or a time, as for --since.")]
Status = Annotated[list[str] | None, typer.Option(metavar="STATUS", help="Only this status, such as 404 or 5xx; may be repeated.")]
Incomplete = Annotated[bool, typer.Option("--incomplete", help="Only records with a failed step.")]
Slow = Annotated[str | None, typer.Option(metavar="DURATION", help="Only records that took at least this long, such as 500ms.")]


def filter_from_options(
    endpoints: list[str] | None,
    since: str | None,
    until: str | None,
    statuses: list[str] | None = None,
    *,
    is_incomplete: bool = False,
    slow: str | None = None,
) -> Filter:
    """The filter that the options describe."""
    slower_than_ms = None
    if slow is not None:
        try:
            slower_than_ms = parse_duration(slow) * 1000
        except ValueError as error:
            usage_error(f"--slow: {error}")
    return Filter(
        endpoints=frozenset(endpoints or ()),
        since=_moment("--since", since),
        until=_moment("--until", until),
        statuses=frozenset(_status(text) for text in statuses or ()),
        is_incomplete=is_incomplete,
        slower_than_ms=slower_than_ms,
    )


def with_progress(items: Iterable[T], segments: list[Segment], tally: Tally, what: str) -> Iterator[T]:
    """Yield `items` unchanged. On a terminal, show a progress bar with the share of the segments read and the number of items."""
    if not sys.stderr.isatty() or not segments:
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[items]:,} done"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=sum(segment.size_bytes for segment in segments), items=0)
        shown_bytes = 0
        for number, item in enumerate(items):
            if tally.bytes_read != shown_bytes or not number % _UPDATE_EVERY:
                shown_bytes = tally.bytes_read
                progress.update(task, completed=shown_bytes, items=number)
            yield item


def warn(tally: Tally) -> None:
    """Print what could not be read, if anything."""
    if tally.damaged:
        typer.echo(f"skipped {tally.damaged} damaged lines; `anabranch journal verify` shows where they are", err=True)
    for name, reason in (tally.unreadable or {}).items():
        typer.echo(f"{name}: {reason}", err=True)


def usage_error(message: str) -> NoReturn:
    """Print the message and end the command with exit code 2."""
    typer.echo(message, err=True)
    raise typer.Exit(BAD_USE)


def _moment(option: str, text: str | None) -> datetime | None:
    """A duration before now, or a time; UTC if it has no time zone."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        usage_error(f"{option}: {text!r} is neither a duration such as 1h nor a time such as 2026-11-22T16:00Z")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _status(text: str) -> int:
    digits = text.lower().removesuffix("xx")
    is_status = digits.isascii() and digits.isdecimal() and (len(text), len(digits)) in ((3, 3), (3, 1))
    return int(digits) if is_status else usage_error(f"--status: {text!r} is neither a status such as 404 nor a class such as 5xx")
