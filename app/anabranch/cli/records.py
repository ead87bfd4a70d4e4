"""What the commands that read a journal have in common: how records are chosen on the command line, how far the reading is, and what is said
of lines that could not be read. Exit code 2 for an option that cannot be used."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from anabranch.cli.options import BAD_USE
from anabranch.journal.filter import Filter, FilterError, read_filter
from anabranch.journal.reader import Tally
from anabranch.journal.segment import Segment

T = TypeVar("T")

_TOLD_EVERY: Final = 100

Folder = Annotated[
    Path | None,
    typer.Option("--journal", "-j", metavar="DIR", help="The journal's folder; ANABRANCH_JOURNAL_PATH or `journal` without it."),
]
_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "endpoint": (list[str] | None, typer.Option("--endpoint", "-e", metavar="NAME", help="Only of this endpoint; may be repeated.")),
    "since": (str | None, typer.Option(help="Not before: a duration ago such as 1h, or a time such as 2026-11-22T16:00Z.")),
    "until": (str | None, typer.Option(help="Only before: as --since.")),
    "status": (list[str] | None, typer.Option(metavar="STATUS", help="Only with this status, such as 404 or 5xx; may be repeated.")),
    "incomplete": (bool, typer.Option("--incomplete", help="Only where a step failed.")),
    "slow": (str | None, typer.Option(metavar="DURATION", help="Only what took at least so long, such as 500ms.")),
    "path": (
        list[str] | None,
        typer.Option(metavar="PATH", help="Only of requests to this path; one that ends in * is the beginning of one. May be repeated."),
    ),
    "request": (list[str] | None, typer.Option(metavar="ID", help="Only of requests with this X-Request-Id; may be repeated.")),
    "trace": (list[str] | None, typer.Option(metavar="ID", help="Only of requests with this W3C trace id; may be repeated.")),
}
"""By name as of `journal.filter.ASKED`."""


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that say which records, in place of its parameter `where`."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in _OPTIONS}
        command(where=_filter(chosen), **arguments)

    own = [parameter for parameter in signature(command, eval_str=True).parameters.values() if parameter.name != "where"]
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=False if kind is bool else None)
        for name, (kind, option) in _OPTIONS.items()
    ]
    parameters = [*(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *added]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined] # how typer reads a command's options
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _filter(chosen: Mapping[str, Any]) -> Filter:
    asked = {}
    for name, value in chosen.items():
        if isinstance(value, bool):
            asked[name] = ["true"] * value
        elif value is not None:
            asked[name] = value if isinstance(value, list) else [value]
    try:
        return read_filter(asked, now=datetime.now(UTC))
    except FilterError as error:
        refuse(f"--{error.name}: {error}")


def with_progress(items: Iterable[T], segments: list[Segment], tally: Tally, what: str) -> Iterator[T]:
    """`items` as they are; on a terminal with a bar of how much of the segments is read, and how many records."""
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
        told_bytes = 0
        for number, item in enumerate(items):
            if tally.bytes_read != told_bytes or not number % _TOLD_EVERY:
                told_bytes = tally.bytes_read
                progress.update(task, completed=told_bytes, items=number)
            yield item


def warn(tally: Tally) -> None:
    """Say what could not be read, if there was any."""
    if tally.damaged:
        typer.echo(f"{tally.damaged} damaged lines were passed over; `anabranch journal verify` says where", err=True)
    for name, reason in (tally.unreadable or {}).items():
        typer.echo(f"{name}: {reason}", err=True)


def refuse(message: str) -> NoReturn:
    """End the command: it is used wrongly."""
    typer.echo(message, err=True)
    raise typer.Exit(BAD_USE)
