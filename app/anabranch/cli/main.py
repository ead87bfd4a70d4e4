"""The command `anabranch`: its groups and subcommands. Exit codes are in `options`."""

from typing import Annotated

import typer

from anabranch import __version__
from anabranch.cli.cache import cache
from anabranch.cli.check import check, explain
from anabranch.cli.journal import journal
from anabranch.cli.openapi import openapi, schema
from anabranch.cli.replay import replay
from anabranch.cli.run import run
from anabranch.cli.ship import ship
from anabranch.cli.test import test
from anabranch.cli.top import top

cli = typer.Typer(
    name="anabranch",
    help="An API aggregation gateway: one request branches out to many services and rejoins as one JSON document.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    cli()


def _version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"anabranch {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Options of the command itself."""


for command in (run, check, explain, test, top, replay, openapi, schema):
    cli.command()(command)
journal.command()(ship)
cli.add_typer(journal, name="journal")
cli.add_typer(cache, name="cache")
