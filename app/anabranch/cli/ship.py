"""`anabranch journal ship`: ships a journal once, by hand. Exit codes: 0, 1 when not everything could be shipped, 2 wrong usage, 3 an
unusable document."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from anabranch.cli.document import compile_or_exit
from anabranch.cli.options import ANSWER_IS_NO, BAD_USE
from anabranch.cli.process import settings_of
from anabranch.config.journal import Sink as SinkConfig
from anabranch.journal.segment import listed
from anabranch.sinks.open import open_sink
from anabranch.sinks.shipper import Shipper
from anabranch.sinks.sink import SinkError


def ship(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="The gateway document with the `journal.sinks` to ship to.")],
    folder: Annotated[
        Path | None, typer.Option("--journal", "-j", metavar="DIR", help="The journal's folder. Default: as for the gateway.")
    ] = None,
) -> None:
    """Ship all records of a journal that have not been shipped yet. Works while gateways write, but not while one of them ships."""
    journal = compile_or_exit(document).draft.document.journal
    if not journal.sinks:
        typer.echo(f"{document} has no journal.sinks to ship to", err=True)
        raise typer.Exit(BAD_USE)
    path = folder or settings_of().journal_path or Path(journal.path)
    if not path.is_dir():
        typer.echo(f"there is no journal at {path}; name its folder with --journal DIR", err=True)
        raise typer.Exit(BAD_USE)
    if not listed(path):
        typer.echo(f"there is nothing to ship: {path} has no segments", err=True)
        raise typer.Exit(BAD_USE)
    results = [asyncio.run(_ship(sink, path)) for sink in journal.sinks]
    if not all(results):
        raise typer.Exit(ANSWER_IS_NO)


async def _ship(config: SinkConfig, path: Path) -> bool:
    """Ship to one sink. Returns whether everything was shipped."""
    sink = open_sink(config)
    shipper = Shipper(path, sink, interval_s=config.postgres.interval_s)
    columns = (
        TextColumn("shipping to {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        total = sum(one.size_bytes if one.summary is None else one.summary.size_bytes for one in listed(path) if shipper.is_needed(one))
        task = progress.add_task(sink.name, total=total, records=0)
        try:
            is_ours = await shipper.ship(
                on_progress=lambda _, size_bytes: progress.update(task, advance=size_bytes, records=shipper.counters.records)
            )
        except (SinkError, OSError) as error:
            typer.echo(f"{sink.name}: failed after {shipper.counters.records:,} records: {error}", err=True)
            return False
        finally:
            await shipper.aclose()
    if not is_ours:
        typer.echo(f"{sink.name}: another process is shipping this journal", err=True)
        return False
    fresh = shipper.counters.fresh
    typer.echo(f"{sink.name}: {shipper.counters.records:,} records shipped, {fresh:,} of them new to the database")
    return True
