"""Projection: compiles the wanted fields to a tree of msgspec structs with raw leaves.

One pass over the body validates it as JSON and extracts the fields; nothing else is decoded. A body with an unexpected shape (such as an
array where the struct has an object) is not an error: the caller falls back to `anabranch.jsontext.raw`, which accepts any shape.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from anabranch.jsontext.frame import MISSING, Frame, Missing
from anabranch.jsontext.path import Path, is_element
from anabranch.jsontext.raw import Tree, get, items

_MAX_FIELDS: Final = 64
"""Wider structs are no faster than the generic decoder: looking up a field's name becomes slow."""


def _struct(wanted: Tree, *, in_arrays: bool) -> type[msgspec.Struct]:
    """A struct type with one optional field for each name. `in_arrays`: a node may also be an array of such structs."""
    fields: list[tuple[str, Any, Any]] = []
    names: dict[str, str] = {}
    for number, (name, below) in enumerate(wanted.items()):
        kind: Any = Raw
        if below:
            node = _struct(below, in_arrays=in_arrays)
            kind = node | list[node | None] | None if in_arrays else node | None  # type: ignore[valid-type]
        fields.append((f"f{number}", kind | UnsetType, UNSET))
        names[f"f{number}"] = name
    return msgspec.defstruct("Projection", fields, rename=names, gc=False)


def is_projectable(wanted: Tree) -> bool:
    """Whether a struct is possible and useful for these fields."""
    return len(wanted) <= _MAX_FIELDS and all(_is_plain(name) and is_projectable(below) for name, below in wanted.items())


def _is_plain(name: str) -> bool:
    """Whether a struct can have a field of this name: msgspec compares names in their unescaped spelling."""
    return '"' not in name and "\\" not in name and all(char >= " " for char in name)


def picker(wanted: Tree) -> Callable[[bytes], bytes]:
    """A function that reduces a body to the wanted fields. It raises msgspec.ValidationError for an unexpected shape, msgspec.DecodeError for
    invalid JSON."""
    top = _struct(wanted, in_arrays=True)
    decode = msgspec.json.Decoder(top | list[top | None] | None).decode  # type: ignore[valid-type]
    encode = msgspec.json.encode
    return lambda body: encode(decode(body))


def extractor(references: "list[tuple[tuple[str, ...], int]]") -> Callable[[bytes, Frame], None]:
    """A function that puts the value at each path of a body into its slot. `references`: (path, slot), no path empty.

    The function raises like that of `picker`. A path into an array is projected up to the array and read generically from there.
    """
    wanted: Tree = {}
    rest: dict[tuple[str, ...], list[tuple[tuple[str, ...], int]]] = {}
    for path, slot in sorted(references, key=lambda item: len(item[0])):
        node, head = wanted, 0
        for head, name in enumerate(path, 1):
            is_known_leaf = name in node and not node[name]
            ends_here = head == len(path) or is_element(path[head])
            node = node.setdefault(name, {})
            if is_known_leaf or ends_here:
                break
        rest.setdefault(path[:head], []).append((path[head:], slot))
    decode = msgspec.json.Decoder(_struct(wanted, in_arrays=False)).decode
    reads = [(_attributes(wanted, path), below) for path, below in rest.items()]
    simple = [(names[0], below[0][1]) for names, below in reads if len(names) == 1 and len(below) == 1 and not below[0][0]]
    if len(simple) == len(reads):

        def fill_flat(body: bytes, frame: Frame) -> None:
            value = decode(body)
            for name, slot in simple:
                found = getattr(value, name)
                frame[slot] = bytes(found) if found is not UNSET else MISSING

        return fill_flat

    def fill(body: bytes, frame: Frame) -> None:
        top = decode(body)
        for names, below in reads:
            value: Any = top
            for name in names:
                value = getattr(value, name)
                if value is UNSET or value is None:
                    break
            found = isinstance(value, Raw)
            for path, slot in below:
                frame[slot] = get(value, path) if found else MISSING

    return fill


Row = tuple[bytes | Missing, ...]


def table(paths: "list[Path]") -> Callable[[bytes], list[Row]]:
    """A function from the JSON text of an array to one row for each element, with what the element has at each of `paths`; the empty path is the element
    itself. The text must be valid, and an array."""

    def generic(array: bytes) -> list[Row]:
        return [tuple(get(element, path) for path in paths) for element in items(array) or ()]

    names = [path[0] for path in paths if len(path) == 1]
    if len(names) < len(paths) or not names or not is_extractable([(path, 0) for path in paths]):
        return generic
    row = _struct({name: {} for name in names}, in_arrays=False)
    decode = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
    fields = [f"f{list(dict.fromkeys(names)).index(name)}" for name in names]

    def one_column(array: bytes) -> list[Row]:
        try:
            found: Any = decode(array)
        except msgspec.ValidationError:
            return generic(array)
        return [(MISSING if value.f0 is UNSET else bytes(value.f0),) for value in found]

    def columns(array: bytes) -> list[Row]:
        try:
            found = decode(array)
        except msgspec.ValidationError:
            return generic(array)
        return [tuple(MISSING if (cell := getattr(value, field)) is UNSET else bytes(cell) for field in fields) for value in found]

    return one_column if len(names) == 1 else columns


def _attributes(wanted: Tree, path: tuple[str, ...]) -> tuple[str, ...]:
    names = []
    for name in path:
        names.append(f"f{list(wanted).index(name)}")
        wanted = wanted[name]
    return tuple(names)


def is_extractable(references: "list[tuple[tuple[str, ...], int]]") -> bool:
    """Whether `extractor` accepts these: no path is empty or begins in an array, and there are not too many."""
    return 0 < len(references) <= _MAX_FIELDS and all(
        path and not is_element(path[0]) and all(is_element(name) or _is_plain(name) for name in path) for path, _ in references
    )
