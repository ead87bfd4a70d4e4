"""Tests of the list of commands."""

import pytest
from typer import Context
from typer.main import get_command
from typer.testing import CliRunner

from anabranch.cli.journal import journal
from anabranch.cli.lazy import LazyGroup
from anabranch.cli.main import cli


def group(of: object) -> LazyGroup:
    found = get_command(of)  # type: ignore[arg-type]
    assert isinstance(found, LazyGroup)
    return found


@pytest.mark.parametrize("of", [cli, journal], ids=["anabranch", "journal"])
def test_a_command_says_of_itself_what_the_list_says_of_it(of: object) -> None:
    commands = group(of)
    context = Context(commands)
    for name, listed in commands.listed.items():
        shown, command, rest = commands.resolve_command(context, [name, "--help"])
        assert (shown, rest) == (name, ["--help"])
        assert command.get_short_help_str(limit=1000).removesuffix(".") == listed.summary.removesuffix("."), name


def test_a_mistyped_command_is_corrected() -> None:
    done = CliRunner().invoke(cli, ["chekc"])
    assert done.exit_code == 2
    assert "Did you mean 'check'" in done.output
