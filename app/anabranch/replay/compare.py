"""Compares two JSON texts by meaning: numbers by value, objects regardless of order, arrays by position.

A difference is named by its path, written as in `pick`: names separated by dots, descending into arrays without an index.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from anabranch.jsontext.path import ANY, PathError, parse_paths

DifferenceKind = Literal["changed", "added", "removed", "length"]
Path = tuple[str, ...]

_MASK: Final = "***"
_SHOWN_CHARS: Final = 80
_ANY_DEPTH: Final = "**"


class Change(msgspec.Struct):
    """The difference at one path. `count`: number of its occurrences, in arrays. `before`, `after`: of the first occurrence, shortened;
    None for a value that was missing. Kind `length`: an array has a different number of elements."""

    path: Path
    kind: DifferenceKind
    before: str | None
    after: str | None
    count: int = 1


class Comparison(msgspec.Struct, frozen=True):
    """`changes`: in the order in which they were found. `is_respelled`: the texts mean the same but are spelled differently."""

    changes: list[Change]
    is_respelled: bool = False


class Ignored:
    """Paths to ignore, with everything below them. `*` matches any one name; `**.time` matches `time` at any depth."""

    __slots__ = ("_anywhere", "_paths")

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """Raises ValueError for an invalid path."""
        self._paths: list[Path] = []
        self._anywhere: list[Path] = []
        for path in paths:
            try:
                names = parse_paths(path)
            except PathError as error:
                raise ValueError(f"{path!r} is not a path: {error}") from None
            if _ANY_DEPTH in names[1:] or names == (_ANY_DEPTH,):
                raise ValueError(f"{path!r} is not a path: `**` is followed by one or more names, such as **.time")
            if names[0] == _ANY_DEPTH:
                self._anywhere.append(names[1:])
            else:
                self._paths.append(names)

    def matches(self, path: Path) -> bool:
        return any(_begins(path, names) for names in self._paths) or any(
            _begins(path[start:], names) for names in self._anywhere for start in range(len(path))
        )


NOTHING_IGNORED: Final = Ignored()


def compare(before: bytes, after: bytes, ignored: Ignored = NOTHING_IGNORED) -> Comparison:
    """Compare two bodies. A string `***` in either of them stands for a redacted value and equals any value.

    Texts that are not JSON are compared as bytes.
    """
    if before == after:
        return Comparison([])
    try:
        old, new = _read(before), _read(after)
        found = _Found(ignored)
        found.compare(old, new, ())
    except (ValueError, RecursionError):
        if ignored.matches(()):
            return Comparison([])
        return Comparison([Change((), "changed", _cut(before.decode(errors="replace")), _cut(after.decode(errors="replace")))])
    return Comparison(list(found.changes.values()), is_respelled=not found.changes and not found.has_ignored)


class _Found:
    """Collects changes by path and kind. `has_ignored`: there were differences that do not count."""

    def __init__(self, ignored: Ignored) -> None:
        self._ignored = ignored
        self.changes: dict[tuple[Path, DifferenceKind], Change] = {}
        self.has_ignored = False

    def compare(self, old: Any, new: Any, path: Path) -> None:
        if _MASK in (old, new):
            self.has_ignored = self.has_ignored or new != old
        elif isinstance(old, dict) and isinstance(new, dict):
            for name, value in old.items():
                if name in new:
                    self.compare(value, new[name], (*path, name))
                else:
                    self._note((*path, name), "removed", value, None)
            for name in new.keys() - old.keys() if new.keys() != old.keys() else ():
                self._note((*path, name), "added", None, new[name])
        elif isinstance(old, list) and isinstance(new, list):
            if len(old) != len(new):
                self._note(path, "length", len(old), len(new))
            for one, other in zip(old, new, strict=False):
                self.compare(one, other, path)
        elif (type(old) is not type(new) and (not _is_number(old) or not _is_number(new))) or old != new:
            self._note(path, "changed", old, new)

    def _note(self, path: Path, kind: DifferenceKind, old: Any, new: Any) -> None:
        if self._ignored.matches(path):
            self.has_ignored = True
            return
        known = self.changes.get((path, kind))
        if known is not None:
            known.count += 1
            return
        before = None if kind == "added" else _shown(old)
        after = None if kind == "removed" else _shown(new)
        self.changes[path, kind] = Change(path, kind, before, after)


def _read(text: bytes) -> Any:
    """Parse JSON. Numbers keep all their digits."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _is_number(value: Any) -> bool:
    return isinstance(value, Decimal | int) and not isinstance(value, bool)


def _begins(path: Path, names: Path) -> bool:
    return len(path) >= len(names) and all(name in (ANY, part) for name, part in zip(names, path, strict=False))


def _shown(value: Any) -> str:
    try:
        return _cut(json.dumps(value, ensure_ascii=False, default=_number, separators=(",", ":")))
    except RecursionError:
        return "..."


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."
