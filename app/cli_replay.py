"""The command `anabranch replay`: what a changed document would have answered. Exit codes: 0 the same, 1 a difference, 2 bad use, 3 a bad document."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.config.units import parse_duration
from app.document import Compiled, compile_file
from app.edge.rerun import Live, offline
from app.engine.service import Service
from app.errors import ConfigError
from app.journal import report
from app.journal.compare import Ignored
from app.journal.reader import Filter, Tally, records
from app.journal.record import Record
from app.journal.redact import Redaction
from app.journal.replay import Replayer
from app.journal.segment import listed
from app.settings import Settings
from app.upstream.open import open_transport

DIFFERENT: Final = 1
BAD_USE: Final = 2
BAD_CONFIG: Final = 3


def replay(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The document to try: a file, or a folder of files.")],
    journal: Annotated[Path | None, typer.Option(metavar="DIR", help="The journal's folder; as the gateway has it when left out.")] = None,
    since: Annotated[str | None, typer.Option(help="Only records since then: 1h (ago), or 2026-11-22T16:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Only records before then.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only records of this endpoint; may be given more often.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Differences there do not count: meta.time, also in arrays; **.time anywhere.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Call the real services, where every call is idempotent.")] = False,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="How the report is written.")] = "text",
) -> None:
    """Run recorded requests through another document, and show which answers would differ. Exit code 1 when some would.

    The services' answers are taken from the journal (records with `bodies: steps`); nothing is called without --live.
    """
    where = Filter(endpoints=frozenset(endpoint or ()), since=_moment("--since", since), until=_moment("--until", until))
    try:
        ignored = Ignored(ignore or ())
    except ValueError as error:
        _refuse(f"--ignore: {error}")
    try:
        compiled = compile_file(config)
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(BAD_CONFIG) from None
    folder = journal or Settings().journal_path or Path(compiled.draft.document.journal.path)
    replayer = Replayer(Redaction(compiled.draft.document.journal.redact), ignored)
    tally = Tally()
    # What is answered is in the report; a log line for every failed request would say it again.
    logger = logging.getLogger("anabranch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        found = _with_progress(folder, where, tally)
        asyncio.run(_live(compiled, replayer, found) if live else _offline(compiled, replayer, found))
    except OSError as error:
        _refuse(f"the journal {folder} cannot be read: {error.strerror or error}; --journal names its folder")
    finally:
        logger.setLevel(level)
    _warn(tally)
    never_asked = {plan.name for plan in compiled.plan.endpoints} - replayer.endpoints.keys() if not endpoint else set()
    show = report.as_json if format_ == "json" else report.as_text
    shown = show(replayer.endpoints, never_asked, has_difference=replayer.has_difference)
    typer.echo(shown)
    if replayer.has_difference:
        raise typer.Exit(DIFFERENT)


async def _offline(compiled: Compiled, replayer: Replayer, found: Iterator[Record]) -> None:
    async with offline(compiled.plan, replayer) as replaying:
        for record in found:
            await replaying.replay(record)


async def _live(compiled: Compiled, replayer: Replayer, found: Iterator[Record]) -> None:
    async with Service(compiled.plan, opener=partial(open_transport, contexts=compiled.contexts)) as service:
        live = Live(service, replayer)
        for record in found:
            await live.replay(record)


def _with_progress(folder: Path, where: Filter, tally: Tally) -> Iterator[Record]:
    """The records, with a bar on a terminal: by bytes of the segments that are done with."""
    if not sys.stderr.isatty():
        yield from records(folder, where, tally)
        return
    total = sum(segment.size_bytes for segment in listed(folder) if where.may_be_in(segment))
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=total, records=0)
        for number, record in enumerate(records(folder, where, tally), 1):
            yield record
            if not number % 100:
                progress.update(task, completed=tally.bytes_read, records=number)


def _moment(option: str, text: str | None) -> datetime | None:
    """A duration before now, or a time; without a zone it is UTC."""
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


def _warn(tally: Tally) -> None:
    if tally.damaged:
        typer.echo(f"{tally.damaged} damaged lines were passed over; `anabranch journal verify` says where", err=True)
    for name, reason in (tally.unreadable or {}).items():
        typer.echo(f"{name}: {reason}", err=True)


def _refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(BAD_USE)
