"""Shared by the commands: exit codes, arguments, settings, and a document that compiles or ends the command."""

import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from anabranch.document.compile import Compiled, compile_file
from anabranch.errors import ConfigError, Problem
from anabranch.settings import Settings, read_settings

ANSWER_IS_NO: Final = 1
"""Exit code: the command ran, and the result is negative: a difference was found, records could not be shipped, the gateway had to end."""
BAD_USE: Final = 2
"""Exit code: wrong usage, or nothing to work on: no record, no endpoint, no document. A pipeline must not take that for success."""
BAD_CONFIG: Final = 3
"""Exit code: the document or the settings are not usable."""

Document = Annotated[Path, typer.Argument(metavar="FILE", help="The gateway document: a file, or a folder of files.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")]

AdminURL = Annotated[
    str | None, typer.Option("--url", help="URL of the admin server. Default: from ANABRANCH_ADMIN_HOST and ANABRANCH_ADMIN_PORT.")
]


def admin_of(url: str | None) -> tuple[str, str | None]:
    """The URL and the token of the admin server; ends the command when there is no address."""
    settings = settings_of()
    if url is None:
        if not settings.admin_port:
            typer.echo("no admin address: pass --url or set ANABRANCH_ADMIN_PORT", err=True)
            raise typer.Exit(BAD_USE)
        url = f"http://{f'[{settings.admin_host}]' if ':' in settings.admin_host else settings.admin_host}:{settings.admin_port}"
    return url, None if settings.admin_token is None else settings.admin_token.get_secret_value()


def settings_of(**given: object) -> Settings:
    """The settings; ends the command when they are not usable."""
    try:
        return read_settings(**given)
    except ConfigError as error:
        exit_with(error.problems)


def compile_or_exit(document: Path) -> Compiled:
    try:
        return compile_file(document)
    except ConfigError as error:
        exit_with(error.problems)


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
