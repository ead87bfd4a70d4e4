"""Paths into JSON: names separated by dots, such as `orders.0.sku`. A name with a dot or another special character stands in double quotes, as in
JSON: `"@odata.count"`, `orders."unit price"`. The name `*` without quotes stands for every element of an array, where that is of use.
"""

from typing import Final

from anabranch.jsontext.values import load, write

Path = tuple[str, ...]
"""The names, and the indexes of elements as text."""

ANY: Final = ""
"""Every element of an array: the part `*` of a path. No name in a path is empty."""

_QUOTED_ONLY: Final = frozenset("{}")
_SPECIAL: Final = frozenset("{}.@?")


class PathError(ValueError):
    """A text is not a path. The message is a sentence for the operator."""


def is_element(name: str) -> bool:
    """Whether this part of a path stands for elements of an array: an index, or all of them."""
    return name.isdecimal() or name == ANY


def parse_path(text: str) -> Path:
    """The names of a path that leads to one place. Raises PathError."""
    path = parse_paths(text)
    if ANY in path:
        raise PathError("a path goes into arrays by itself: leave out the `*`; a member of that name is written in double quotes")
    return path


def parse_paths(text: str) -> Path:
    """The names of a path in which `*` stands for every element of an array (`ANY`). Raises PathError."""
    names: list[str] = []
    at = 0
    while True:
        name, at, is_quoted = _name(text, at)
        names.append(ANY if name == "*" and not is_quoted else name)
        if at == len(text):
            return tuple(names)
        if text[at] != ".":
            raise PathError(f"a dot or the end must follow the closing quote at character {at}" if is_quoted else _ODD)
        if "@" in name and not is_quoted:
            # JSON of OData and Microsoft Graph has such names with dots; a member of that name would never be found.
            raise PathError(_ambiguous(text, at, name))
        at += 1


_ODD: Final = "a path must be names separated by dots, such as orders.sku"


def _name(text: str, at: int) -> tuple[str, int, bool]:
    """The name that begins at `at`, where it ends, and whether it is quoted."""
    if text[at : at + 1] == '"':
        end = quote_end(text, at)
        if end < 0:
            raise PathError(f"the quote at character {at + 1} is never closed")
        try:
            name: str = load(text[at:end].encode())
        except Exception:  # noqa: BLE001 - whatever is wrong with an escape in it
            raise PathError(f"the name in quotes at character {at + 1} is not a JSON string") from None
        if not name:
            raise PathError(_ODD)
        return name, end, True
    end = text.find(".", at)
    end = len(text) if end < 0 else end
    name = text[at:end]
    if not name or name.isspace():
        raise PathError(_ODD)
    if not _QUOTED_ONLY.isdisjoint(name):
        raise PathError(f"a path is no template; a name with a brace must be in double quotes: {write(name).decode()}")
    return name, end, False


def _ambiguous(text: str, dot: int, name: str) -> str:
    above, below = text[: dot - len(name)], text[dot:]
    return (
        f"a name with an @ before a dot must be in double quotes: write {above}{write(name + below).decode()} if the dot is part of the name, or "
        f"{above}{write(name).decode()}{below} if it is not"
    )


def quote_end(text: str, at: int) -> int:
    """Where the quoted name that begins at `at` ends: the position behind its closing quote; -1 when it is never closed."""
    at += 1
    while at < len(text):
        if text[at] == '"':
            return at + 1
        at += 2 if text[at] == "\\" else 1
    return -1


def path_text(path: Path) -> str:
    """The text that `parse_path` reads as `path`."""
    return ".".join(map(_name_text, path))


def _name_text(name: str) -> str:
    if name == ANY:
        return "*"
    is_plain = name and name != "*" and name[0] != '"' and _SPECIAL.isdisjoint(name) and name.isprintable() and not name.isspace()
    return name if is_plain else write(name).decode()
