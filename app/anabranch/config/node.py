"""A parsed document before it becomes plain data. Every node has the position where it was written.

The tree is a directed acyclic graph: an alias is the same node as its anchor, so aliased and merged parts have the position of the anchor,
which is where the operator has to change them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str | int, ...]
"""A path in the document: keys of mappings and indexes of lists, from the root."""


class Located(NamedTuple):
    """A position in a file. `line` and `column` count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(slots=True)
class Scalar:
    """A string, number, boolean or null.

    `is_broken`: the text could not be read, which has been reported. Do not report problems that only follow from the missing value.
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
    """One key of a mapping and its value. `where`: the position of the key."""

    where: Located
    value: "Node"


@dataclass(slots=True)
class Mapping:
    """A mapping. Keys are strings, in the order of the document."""

    where: Located
    entries: dict[str, Entry] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def walk(root: Node, path: Path) -> Iterator[tuple[Located, Node]]:
    """Walk from `root` along `path` as far as the document has it. Yields, for each node, the position of its key and the node.

    The root and list items have no key, so the position of the node itself is used.
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
