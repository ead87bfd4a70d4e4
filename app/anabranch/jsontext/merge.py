"""Merges the values of the steps into the response body. The same values give the same bytes, in whatever order they arrived."""

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame

Assemble = Callable[[list[bytes], Frame], bytes]


def group(visible: "list[tuple[int, str]]") -> Assemble:
    """Each visible step (index, name) under its own name. Values keep their exact spelling."""
    prefixes = [((b"," if number else b"{") + raw.encode(name) + b":", index) for number, (index, name) in enumerate(visible)]
    if not prefixes:
        return lambda _values, _frame: b"{}"

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
            merged.update(raw.members(values[index]) or {})
        return raw.encode(merged)

    return assemble


def deep(visible: "list[tuple[int, str]]", *, concat_arrays: bool) -> Assemble:
    """Merge recursively: two objects at the same path are merged, two arrays are concatenated or replaced, otherwise the later step wins."""

    def assemble(values: list[bytes], _frame: Frame) -> bytes:
        merged: dict[str, Any] = {}
        for index, _ in visible:
            _into(merged, raw.members(values[index]) or {}, concat_arrays=concat_arrays)
        return raw.encode(merged)

    return assemble


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
