"""Shared by the commands that read a document: it compiles, or ends the command."""

from pathlib import Path

from anabranch.cli.options import exit_with
from anabranch.document.compile import Compiled, compile_file
from anabranch.errors import ConfigError


def compile_or_exit(document: Path) -> Compiled:
    try:
        return compile_file(document)
    except ConfigError as error:
        exit_with(error.problems)
