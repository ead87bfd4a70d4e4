"""Merges the values of the steps into the response body. The same values give the same bytes, in whatever order they arrived."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame

Assemble = Callable[[list[bytes], Frame], bytes]


ABSENT: Final = b""
"""The value of a step that was left out: no JSON text is empty."""


def group(visible: "list[tuple[int, str]]", *, may_be_absent: bool = False) -> Assemble:
    """Each visible step (index, name) under its own name. Values keep their exact spelling. `may_be_absent`: a value may be `ABSENT`, and its
    name is left out then."""
    names = [(raw.encode(name) + b":", index) for index, name in visible]
    if may_be_absent or not names:
        return lambda values, _frame: b"{" + b",".join([name + values[index] for name, index in names if values[index]]) + b"}"
    prefixes = [((b"," if number else b"{") + name, index) for number, (name, index) in enumerate(names)]

    def assemble(values: list[bytes], _frame: Frame) -> bytes:
        parts = []
        for prefix, index in prefixes:
            parts.append(prefix)
            parts.append(values[index])
        parts.append(b"}")
        return b"".join(parts)

    return assemble


def flat(visible: "list[tuple[int, str]]") -> Assemble:
    """The members of all visible steps in one object. On a conflict the later step wins. A null adds nothing."""

    def assemble(values: list[bytes], _frame: Frame) -> bytes:
        merged: dict[str, Raw] = {}
        for index, _ in visible:
            merged.update(_members(values[index]))
        return raw.encode(merged)

    return assemble


def deep(visible: "list[tuple[int, str]]", *, concat_arrays: bool) -> Assemble:
    """Merge recursively: two objects at the same path are merged, two arrays are concatenated or replaced, otherwise the later step wins."""

    def assemble(values: list[bytes], _frame: Frame) -> bytes:
        merged: dict[str, Any] = {}
        for index, _ in visible:
            _into(merged, _members(values[index]), concat_arrays=concat_arrays)
        return raw.encode(merged)

    return assemble


def concat(visible: "list[tuple[int, str]]") -> Assemble:
    """The elements of all visible arrays in one array, in their exact spelling. A null adds nothing."""
    indexes = [index for index, _ in visible]

    def assemble(values: list[bytes], _frame: Frame) -> bytes:
        inner = [values[index][1:-1] for index in indexes if values[index][:1] == b"["]
        return b"[" + b",".join([elements for elements in inner if elements and not elements.isspace()]) + b"]"

    return assemble


def with_member(render: Callable[[Frame], bytes], name: str, index: int) -> Assemble:
    """What `render` makes, which is an object, with one more member at its end: a value that may be `ABSENT`."""
    prefix = raw.encode(name) + b":"

    def assemble(values: list[bytes], frame: Frame) -> bytes:
        whole = render(frame)
        if not values[index]:
            return whole
        return b"".join((whole[:-1], b"," if len(whole) > len(b"{}") else b"", prefix, values[index], b"}"))

    return assemble


def _members(value: bytes) -> dict[str, Raw]:
    return raw.members(value) or {} if value else {}


def _into(target: dict[str, Any], fields: dict[str, Raw], *, concat_arrays: bool) -> None:
    for name, value in fields.items():
        earlier = target.get(name)
        if earlier is None:
            target[name] = value
        elif (below := raw.members(value)) is not None and (into := _opened_object(earlier)) is not None:
            _into(into, below, concat_arrays=concat_arrays)
            target[name] = into
        elif concat_arrays and (more := raw.items(value)) is not None and (first := _opened_array(earlier)) is not None:
            target[name] = first + more
        else:
            target[name] = value


def _opened_object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Raw):
        return raw.members(value)
    return value if isinstance(value, dict) else None


def _opened_array(value: Any) -> list[Any] | None:
    if isinstance(value, Raw):
        return raw.items(value)
    return value if isinstance(value, list) else None
