"""`anabranch replay`: shows what a changed document would have answered. Exit codes: 0 no difference, 1 a difference, 2 wrong usage or
nothing compared, 3 an unusable document."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from anabranch.cli.document import compile_or_exit
from anabranch.cli.options import ANSWER_IS_NO, BAD_USE
from anabranch.cli.process import settings_of
from anabranch.cli.records import filtered, usage_error, warn, with_progress
from anabranch.config.problems import did_you_mean
from anabranch.document.compile import Compiled
from anabranch.document.service import Service
from anabranch.journal.filter import Filter
from anabranch.journal.reader import Tally, records
from anabranch.journal.record import Record
from anabranch.journal.redact import Redaction
from anabranch.journal.segment import listed
from anabranch.replay import report
from anabranch.replay.compare import Ignored
from anabranch.replay.replay import Replayer
from anabranch.replay.rerun import Live, offline
from anabranch.upstream.open import open_transport


@filtered
def replay(
    where: Filter,
    config: Annotated[Path, typer.Option(metavar="FILE", help="The document to try: a file, or a folder of files.")],
    journal: Annotated[Path | None, typer.Option(metavar="DIR", help="The journal's folder; as the gateway has it when left out.")] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Ignore differences at this path: meta.time (also in arrays), **.time at any depth."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Call the real upstreams. Skips endpoints with a call that is not idempotent.")
    ] = False,
    format_: Annotated[Literal["text", "json"], typer.Option("--format", help="Format of the report.")] = "text",
) -> None:
    """Run recorded requests through another document, and show which answers would differ. Exit code 1 if any does.

    Upstream answers come from the journal (records with `bodies: steps`); no upstream is called without --live. Functions of compute steps
    are called.
    """
    try:
        ignored = Ignored(ignore or ())
    except ValueError as error:
        usage_error(f"--ignore: {error}")
    compiled = compile_or_exit(config)
    folder = journal or settings_of().journal_path or Path(compiled.draft.document.journal.path)
    replayer = Replayer(Redaction(compiled.draft.document.journal.redact), ignored)
    tally = Tally()
    # The report contains every answer; a log line for each failed request would repeat it.
    logger = logging.getLogger("anabranch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        segments = [segment for segment in listed(folder) if where.may_be_in(segment)]
        found = with_progress(records(folder, where, tally), segments, tally, "replaying")
        with _prints_to_stderr():
            asyncio.run(_live(compiled, replayer, found) if live else _offline(compiled, replayer, found))
    except OSError as error:
        usage_error(f"the journal {folder} cannot be read: {error.strerror or error}; name its folder with --journal DIR")
    finally:
        logger.setLevel(level)
    warn(tally)
    never_asked = {plan.name for plan in compiled.plan.endpoints} - replayer.endpoints.keys() if not where.endpoints else set()
    show = report.as_json if format_ == "json" else report.as_text
    shown = show(replayer.endpoints, never_asked, has_difference=replayer.has_difference)
    typer.echo(shown)
    if replayer.has_difference:
        raise typer.Exit(ANSWER_IS_NO)
    # Nothing was compared: a pipeline that goes by the exit code must not take this for success.
    if not tally.records:
        names = [plan.name for plan in compiled.plan.endpoints]
        unknown = [name for name in where.endpoints or () if name not in names]
        hint = did_you_mean(unknown[0], names) if unknown else ""
        usage_error(f"nothing was replayed: no record in {folder} matches these options" + (f"; {hint}" if hint else ""))
    if replayer.has_only_skipped:
        raise typer.Exit(BAD_USE)


async def _offline(compiled: Compiled, replayer: Replayer, found: Iterator[Record]) -> None:
    async with offline(compiled.plan, replayer) as replaying:
        for record in found:
            await replaying.replay(record)


async def _live(compiled: Compiled, replayer: Replayer, found: Iterator[Record]) -> None:
    async with Service(compiled.plan, opener=partial(open_transport, contexts=compiled.contexts)) as service:
        live = Live(service, replayer)
        for record in found:
            await live.replay(record)


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send what the users' functions print to stderr, here and in worker processes: stdout is for the report."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
