"""Shared by the commands: exit codes, arguments, output, and problems that end a command."""

import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from anabranch.errors import Problem

ANSWER_IS_NO: Final = 1
"""Exit code: the command ran, and the result is negative: a difference was found, records could not be shipped, the gateway had to end."""
BAD_USE: Final = 2
"""Exit code: wrong usage, or nothing to work on: no record, no endpoint, no document. A pipeline must not take that for success."""
BAD_CONFIG: Final = 3
"""Exit code: the document or the settings are not usable."""

Document = Annotated[Path, typer.Argument(metavar="FILE", help="The gateway document: a file, or a folder of files.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")]


def exit_with(problems: list[Problem]) -> NoReturn:
    for problem in problems:
        typer.echo(str(problem), err=True)
    typer.echo(counted(len(problems), "problem"), err=True)
    raise typer.Exit(BAD_CONFIG)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def write(content: bytes, output: Path | None) -> None:
    """Write to the file, or to stdout. Flushes here, so that a closed pipe does not cause a traceback at exit."""
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        typer.echo(f"cannot write {output}: {error.strerror}", err=True)
        raise typer.Exit(BAD_USE) from None
