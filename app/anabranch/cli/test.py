"""`anabranch test`: runs spec files. Exit codes: 0; 1 when a case fails; 2 for wrong usage, including nothing to run; 3 when a spec file or a
document is not usable.

The test kit is imported by this command alone: a gateway starts without it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anabranch.cli.options import ANSWER_IS_NO, BAD_CONFIG, BAD_USE, Output, write

if TYPE_CHECKING:
    from anabranch.testing.specs.read import Spec
    from anabranch.testing.specs.report import Result


def test(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Spec files, and folders of them.")],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The gateway document to test. Default: the one that the spec file names.")
    ] = None,
    keyword: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Run only the cases that have this text in their name or their file's.")
    ] = None,
    format_: Annotated[Literal["text", "json", "junit"], typer.Option("--format", help="Form of the results.")] = "text",
    output: Output = None,
) -> None:
    """Run spec files: send requests to the gateway, let scripted services answer its calls, and compare the results."""
    from anabranch.testing.specs import report

    specs = list(_chosen(_read(paths, config), keyword))
    if not specs:
        typer.echo("nothing to run: " + ("there are no spec files" if keyword is None else f"no case matches {keyword!r}"), err=True)
        raise typer.Exit(BAD_USE)
    found: list[Result] = []
    for result in report.results(specs):
        found.append(result)
        if format_ == "text" and output is None:
            _show(result)
    if format_ == "text":
        lines = [] if output is None else [line for result in found for line in _lines(result)]
        text = "\n".join([*lines, report.as_summary(found)])
    else:
        text = report.as_json(found) if format_ == "json" else report.as_junit(found)
    write(f"{text}\n".encode(), output)
    outcomes = {result.outcome for result in found}
    if "broken" in outcomes:
        raise typer.Exit(BAD_CONFIG)
    if "failed" in outcomes:
        raise typer.Exit(ANSWER_IS_NO)


def _read(paths: list[Path], config: Path | None) -> list["Spec"]:
    """All cases of all files. Ends the command with the mistakes of every file."""
    from anabranch.testing.specs.read import SpecError, read_spec_file, spec_files

    specs: dict[Path, list[Spec]] = {}
    mistakes: list[str] = []
    for path in paths:
        if not path.exists():
            typer.echo(f"{path}: there is no such file or folder", err=True)
            raise typer.Exit(BAD_USE)
        for file in spec_files(path):
            try:
                specs[file] = read_spec_file(file, document=config)
            except SpecError as error:
                mistakes.append(str(error))
    if mistakes:
        typer.echo("\n".join(mistakes), err=True)
        raise typer.Exit(BAD_CONFIG)
    return [spec for found in specs.values() for spec in found]


def _chosen(specs: list["Spec"], keyword: str | None) -> "Iterator[Spec]":
    for spec in specs:
        if keyword is None or keyword.casefold() in f"{spec.path.name} {spec.case.name}".casefold():
            yield spec


def _show(result: "Result") -> None:
    for line in _lines(result):
        typer.echo(line)


def _lines(result: "Result") -> list[str]:
    """The line of a case, and its report below it."""
    from anabranch.testing.specs import report

    return [report.as_line(result), *(f"    {line}".rstrip() for line in result.report.splitlines())]
