"""`anabranch cache`: lists and removes the stored answers of a running gateway."""

import json
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anabranch.cli.options import ANSWER_IS_NO, BAD_USE, counted
from anabranch.cli.process import AdminURL, admin_of
from anabranch.config.problems import on_one_line
from anabranch.observe.admin import AdminError, ask
from anabranch.server.peers import NO_ANSWER

PATH: Final = "/admin/cache"
_PURGE_TIMEOUT_S: Final = 40.0
"""Longer than the workers of a gateway have to report."""
_REPORTED: Final = frozenset({503, 504})

cache = typer.Typer(help="List and remove the stored answers of a running gateway.", no_args_is_help=True)

Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Answers with this tag. May be repeated.")]
Paths = Annotated[
    list[str] | None,
    typer.Option("--path", metavar="PATH", help="Answers of calls with this path; one that ends in * is a beginning. May be repeated."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="As the admin server says it.")]


@cache.command()
def ls(
    tag: Tags = None,
    path: Paths = None,
    upstream: Annotated[str | None, typer.Option(help="Only answers of this upstream.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show at most so many, those used last first.")] = 100,
    as_json: AsJSON = False,
    url: AdminURL = None,
) -> None:
    """List the stored answers in the memory of one gateway, or of one of its workers."""
    query = [*_which(tag, path), *([] if upstream is None else [("upstream", upstream)]), ("limit", str(limit))]
    report = _ask(url, query)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    Console().print(_table(report))


@cache.command()
def purge(
    tag: Tags = None,
    path: Paths = None,
    everything: Annotated[bool, typer.Option("--all", help="All answers.")] = False,
    as_json: AsJSON = False,
    url: AdminURL = None,
) -> None:
    """Remove stored answers, in all workers and in all gateways that share a store. Those with one of the tags and those of one of the paths."""
    if everything == bool(tag or path):
        typer.echo(
            "`--all` removes everything: it goes without `--tag` and `--path`" if everything else "what? Pass --tag, --path, or --all",
            err=True,
        )
        raise typer.Exit(BAD_USE)
    report = _ask(url, _which(tag, path), method="DELETE")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(
            f"removed {counted(report['purged'], 'stored answer')}{', and told all gateways that share the store' if report['shared'] == 'told' else ''}"
        )
    if report["complete"]:
        return
    if report["shared"] == "away":
        typer.echo("the shared store is away: other gateways may still use the answers; purge again when it is back", err=True)
    if (late := [str(one["worker"]) for one in report.get("workers", []) if one["result"] == NO_ANSWER]) or report["shared"] != "away":
        typer.echo(
            f"no answer from {'worker ' + ', '.join(late) if late else 'the other workers'}: they may still use the answers", err=True
        )
    raise typer.Exit(ANSWER_IS_NO)


def _which(tags: list[str] | None, paths: list[str] | None) -> list[tuple[str, str]]:
    return [*(("tag", tag) for tag in tags or ()), *(("path", path) for path in paths or ())]


def _ask(url: str | None, query: list[tuple[str, str]], *, method: str = "GET") -> dict[str, Any]:
    url, token = admin_of(url)
    target = f"{PATH}?{urlencode(query)}" if query else PATH
    try:
        if method == "GET":
            return ask(url, target, token)
        return ask(url, target, token, method=method, timeout_s=_PURGE_TIMEOUT_S, reported=_REPORTED)
    except AdminError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(ANSWER_IS_NO) from None


def _table(report: dict[str, Any]) -> Table:
    shown, count = report["entries"], report["count"]
    title = f"{counted(count, 'stored answer')}, {report['size_bytes'] / 1024:.0f} KiB"
    if len(shown) < count:
        title += f", the {len(shown)} used last"
    if report["worker"] is not None:
        title += f" (worker {report['worker']} only: each worker has its own memory)"
    table = Table(title=title, title_justify="left")
    for column in ("upstream", "path"):
        table.add_column(column, overflow="fold")
    for column in ("status", "age s", "fresh s", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("tags", overflow="fold")
    for entry in shown:
        numbers = (str(entry["status"]), f"{entry['age_s']:.0f}", f"{entry['fresh_s']:.0f}", str(entry["size_bytes"]))
        table.add_row(escape(entry["upstream"]), escape(entry["path"]), *numbers, escape(on_one_line(", ".join(entry["tags"]))))
    return table
