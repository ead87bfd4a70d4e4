"""Selections: which members of a JSON value a client wants, such as `flight(id,carrier),weather.temp`. Knows only the grammar.

```
selection = item *( "," item )
item      = name *( "." name ) [ "(" selection ")" ]
name      = plain / quoted / "*"
```

A level is entered by a dot or by parentheses. A name without quotes has none of the characters ``. , ( ) [ ] { } " * / \\`` and no white space;
any other name stands in double quotes, as in JSON. `*` at the end of an item is everything at that place. White space between these is ignored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from anabranch.jsontext import raw
from anabranch.jsontext.path import Path, quote_end
from anabranch.jsontext.values import load

MOST_CHARS: Final = 2048
MOST_NAMES: Final = 100
MOST_LEVELS: Final = 10
"""Bounds of one selection: clients choose it freely, and it is compiled."""

_SPECIAL: Final = frozenset('.,()[]{}"*/\\')
PATTERN: Final = r'^(?:[^\s.,()\[\]{}"*/\\]|"(?:[^"\\]|\\.)+"|[\s.,()*])+$'
"""A regular expression that every selection matches."""


class SelectionError(ValueError):
    """A text is not a selection. The message is a predicate ("is empty") for the client, and quotes nothing that the client
    sent."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`tree`: the selected names in alphabetical order; empty when everything is selected. `key`: the same for all texts that select the same.
    `places`: where each name of the first level stands in its text, as an index."""

    tree: raw.Tree
    key: bytes
    places: dict[str, int]


def parse(texts: Iterable[str]) -> Selection:
    """The union of the selections in `texts`. Raises SelectionError."""
    parser = _Parser()
    chars = 0
    for text in texts:
        chars += len(text)
        if chars > MOST_CHARS:
            raise SelectionError(f"is too long: it may have at most {MOST_CHARS} characters")
        parser.read(text)
    tree = {} if () in parser.paths else raw.tree_of(sorted(parser.paths))
    return Selection(tree, raw.encode(tree), parser.places)


def fault(at: int, message: str) -> SelectionError:
    """The fault at the character with the index `at`."""
    return SelectionError(f"is not valid at character {at + 1}: {message}")


class _Parser:
    """Reads one text after the other. `paths`: what they select, a path for each item; `()` is everything. `places`: see `Selection`."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.places: dict[str, int] = {}
        self._text = ""
        self._at = 0
        self._names_left = MOST_NAMES

    def read(self, text: str) -> None:
        self._text = text
        self._at = 0
        if not self._next():
            raise SelectionError("is empty: it must name what is wanted; without the parameter, the answer is whole")
        self._list(())
        if self._at < len(self._text):
            raise self._fault("this parenthesis closes nothing")

    def _list(self, above: Path) -> None:
        """Items up to a closing parenthesis or the end."""
        self._item(above)
        while self._next() == ",":
            self._at += 1
            self._item(above)

    def _item(self, above: Path) -> None:
        path = above
        while True:
            self._next()
            start = self._at
            name = self._name()
            here = self._next()
            if name is None:
                if here in (".", "("):
                    raise self._fault("nothing can follow `*`; a name applies to every element of an array by itself")
                self.paths.append(path)
                return
            if not path:
                self.places.setdefault(name, start)
            path = (*path, name)
            if len(path) > MOST_LEVELS:
                raise fault(start, f"there may be at most {MOST_LEVELS} levels")
            if here != ".":
                break
            if "@" in name and self._text[start] != '"':
                # As in the paths of a document: JSON of OData has such names with dots.
                raise fault(start, "a name with an @ before a dot must be in double quotes, with the dot if that is part of the name")
            self._at += 1
        if here == "(":
            opened = self._at
            self._at += 1
            self._list(path)
            if not self._next():
                raise fault(opened, "this parenthesis is never closed")
            self._at += 1
            here = self._next()
        else:
            self.paths.append(path)
        if here not in ("", ",", ")"):
            raise self._fault("a comma must be here, or the end; a name with a special character stands in double quotes")

    def _name(self) -> str | None:
        """The next name; None for `*`."""
        here = self._next()
        self._names_left -= 1
        if self._names_left < 0:
            raise self._fault(f"there may be at most {MOST_NAMES} names")
        if here == "*":
            self._at += 1
            return None
        if here == '"':
            return self._quoted()
        start = self._at
        while self._at < len(self._text) and (char := self._text[self._at]) not in _SPECIAL and not char.isspace():
            self._at += 1
        if start == self._at:
            raise self._fault("a name must be here")
        return self._text[start : self._at]

    def _quoted(self) -> str:
        end = quote_end(self._text, self._at)
        if end < 0:
            raise self._fault("this quote is never closed")
        try:
            name: str = load(self._text[self._at : end].encode())
        except Exception:  # noqa: BLE001 - whatever is wrong with an escape in it
            raise self._fault("this name in quotes is not a JSON string") from None
        if not name:
            raise self._fault("a name cannot be empty")
        self._at = end
        return name

    def _next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _fault(self, message: str) -> SelectionError:
        return fault(self._at, message)
