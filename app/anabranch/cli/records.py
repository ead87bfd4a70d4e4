"""Shared by the commands that read a journal: filter options, the progress bar, and warnings about unreadable lines. Exit code 2 for an
invalid option."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from anabranch.cli.options import BAD_USE
from anabranch.journal.filter import Filter, FilterError, read_filter
from anabranch.journal.reader import Tally
from anabranch.journal.segment import Segment

T = TypeVar("T")

_UPDATE_EVERY: Final = 100

Folder = Annotated[
    Path | None,
    typer.Option("--journal", "-j", metavar="DIR", help="The journal's folder. Default: ANABRANCH_JOURNAL_PATH, or else `journal`."),
]
_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "endpoint": (list[str] | None, typer.Option("--endpoint", "-e", metavar="NAME", help="Only this endpoint; may be repeated.")),
    "since": (str | None, typer.Option(help="Only from this time on: an age such as 1h, or a time such as 2026-11-22T16:00Z.")),
    "until": (str | None, typer.Option(help="Only before this time: an age or a time, as for --since.")),
    "status": (list[str] | None, typer.Option(metavar="STATUS", help="Only this status, such as 404 or 5xx; may be repeated.")),
    "incomplete": (bool, typer.Option("--incomplete", help="Only records with a failed step.")),
    "slow": (str | None, typer.Option(metavar="DURATION", help="Only records that took at least this long, such as 500ms.")),
    "path": (
        list[str] | None,
        typer.Option(metavar="PATH", help="Only requests to this path, or with a * at its end, to paths that begin so; may be repeated."),
    ),
    "request": (list[str] | None, typer.Option(metavar="ID", help="Only the request with this X-Request-Id; may be repeated.")),
    "trace": (list[str] | None, typer.Option(metavar="ID", help="Only requests with this W3C trace id; may be repeated.")),
}
"""By name as of `journal.filter.ASKED`."""


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `where` of a command by the options that describe the filter."""

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
        usage_error(f"--{error.name}: {error}")


def with_progress(items: Iterable[T], segments: list[Segment], tally: Tally, what: str) -> Iterator[T]:
    """Yield `items` unchanged. On a terminal, show a progress bar with the share of the segments read and the number of items."""
    if not sys.stderr.isatty() or not segments:
        yield from items
        return
    # Rich takes a tenth of a second to import, and scripts have no terminal.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

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
