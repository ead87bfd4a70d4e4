"""The command `anabranch`: its groups and subcommands. Exit codes are in `options`."""

from typing import Annotated, Final

import typer

from anabranch import __version__
from anabranch.cli.lazy import LazyGroup, Listed
from anabranch.server import gc_tuning

COMMANDS: Final = {
    "run": Listed("anabranch.cli.run:run", "Run the gateway until SIGINT or SIGTERM."),
    "check": Listed("anabranch.cli.check:check", "Check a document, and report every problem with file, line and column."),
    "explain": Listed(
        "anabranch.cli.check:explain",
        "Show the plan of each endpoint: the order of its steps, how answers are read, the critical path against the deadline.",
    ),
    "test": Listed(
        "anabranch.cli.test:test",
        "Run spec files: send requests to the gateway, let scripted services answer its calls, and compare the results.",
    ),
    "top": Listed("anabranch.cli.top:top", "Show how long endpoints and their steps take in a running gateway, until Ctrl-C."),
    "replay": Listed("anabranch.cli.replay:replay", "Run recorded requests through another document, and show which answers would differ."),
    "openapi": Listed("anabranch.cli.openapi:openapi", "Write the API description (OpenAPI 3.1) of a document."),
    "schema": Listed("anabranch.cli.openapi:schema", "Write the JSON Schema of gateway documents, for editors."),
    "journal": Listed("anabranch.cli.journal:journal", "Inspect a journal: records, statistics, checksums."),
    "cache": Listed("anabranch.cli.cache:cache", "List and remove the stored answers of a running gateway."),
}
"""By name, in the order of `--help`. A test compares the summaries with the commands."""


class _Commands(LazyGroup):
    listed = COMMANDS


cli = typer.Typer(
    name="anabranch",
    cls=_Commands,
    help="An API aggregation gateway: one request branches out to many services and rejoins as one JSON document.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    gc_tuning.pause()
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
