"""A parsed document before it becomes plain data: every node knows where it was written.

The tree is a directed acyclic graph: an alias is the very node that its anchor names, so the positions of aliased and merged parts are
those of the place where a person has to change them. Nodes know nothing of YAML's grammar, of the environment or of our models.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str | int, ...]
"""A place in the document: keys of mappings and indexes of lists, from the top."""


class Located(NamedTuple):
    """A place in a file. `line` and `column` count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(slots=True)
class Scalar:
    """A string, number, boolean or null.

    `is_broken`: the text could not be read, which has been reported; whatever depends on the value must keep still about it.
    """

    where: Located
    value: str | int | float | bool | None
    is_broken: bool = False


@dataclass(slots=True)
class Sequence:
    """A list."""

    where: Located
    items: "list[Node]" = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """One key of a mapping (`where` is the key's place) and its value."""

    where: Located
    value: "Node"


@dataclass(slots=True)
class Mapping:
    """A mapping. Keys are text, in the order of the document."""

    where: Located
    entries: dict[str, Entry] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def trail(root: Node, path: Path) -> Iterator[tuple[Located, Node]]:
    """Walk from `root` along `path` as far as the document goes: for each node the place of its key, and the node itself.

    The root and the items of lists have no key: theirs is the place of the node.
    """
    yield root.where, root
    node = root
    for part in path:
        if isinstance(node, Mapping) and isinstance(part, str) and part in node.entries:
            entry = node.entries[part]
            key, node = entry.where, entry.value
        elif isinstance(node, Sequence) and isinstance(part, int) and 0 <= part < len(node.items):
            node = node.items[part]
            key = node.where
        else:
            return
        yield key, node
