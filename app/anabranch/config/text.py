"""Reads the text of another file, such as a mounted secret, as data."""

from typing import Any

from anabranch.config.node import Located, Mapping, Node, Path, Sequence
from anabranch.config.parse import parse


def data_of(text: str) -> Any:
    """The data in a YAML or JSON text; None for an empty one. Raises ValueError with the first mistake and its line. No message quotes the text: it may be secret."""
    faults: list[str] = []

    def report(where: Located, message: str, *, path: Path = (), hint: str = "") -> None:
        faults.append(f"line {where.line} of the text is not valid YAML")

    node = parse(text, "", report)
    if faults:
        raise ValueError(faults[0])
    return None if node is None else _data(node)


def _data(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {name: _data(entry.value) for name, entry in node.entries.items()}
    return [_data(item) for item in node.items] if isinstance(node, Sequence) else node.value
