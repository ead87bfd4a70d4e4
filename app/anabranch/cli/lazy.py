"""Commands that are imported when they are called: `anabranch --help` imports none of them, and a command only what itself needs."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from anabranch.server import gc_tuning


class Listed(NamedTuple):
    """A command as `--help` lists it. `home`: its module and attribute, a function or a Typer. `summary`: the first sentence of its help."""

    home: str
    summary: str


class LazyGroup(TyperGroup):
    """A group whose commands may be listed only. They come after those that are imported with the group."""

    listed: ClassVar[Mapping[str, Listed]] = {}

    def __init__(self, *, commands: Mapping[str, Any], **options: Any) -> None:
        super().__init__(commands={**commands, **{name: _Unread(name, one) for name, one in self.listed.items()}}, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.read() if isinstance(command, _Unread) else command, rest


class _Unread(TyperCommand):
    """A command in a list."""

    def __init__(self, name: str, listed: Listed) -> None:
        super().__init__(name, help=listed.summary)
        self._name = name
        self._home = listed.home

    def read(self) -> Any:
        """The command itself. Imports its module, and ends the pause of the garbage collector in which the process starts."""
        module, _, attribute = self._home.partition(":")
        found = getattr(import_module(module), attribute)
        gc_tuning.resume()
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(self._name)(found)
        return typer.main.get_command(alone)
