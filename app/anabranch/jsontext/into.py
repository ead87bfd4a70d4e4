"""Puts values into the elements of an array inside a JSON text: `orders.items` and their products. What is not touched keeps its spelling."""

from collections.abc import Iterator
from typing import Final

from msgspec import Raw

from anabranch.jsontext import raw
from anabranch.jsontext.path import ANY, Path

_EMPTY: Final = b"{}"


def place(path: Path) -> Path:
    """The path of the elements themselves, for the path of an array, or of something in every element of one."""
    return path if ANY in path else (*path, ANY)


def put_into(value: bytes, path: Path, key: str, results: list[bytes], rest: bytes) -> bytes:
    """`value` with one of `results` under `key` in each object at `path`, in order; in the objects beyond them with `rest`. An element that is not an
    object uses up its result and stays as it is."""
    return bytes(_walk(Raw(value), path, _Member(key), iter(results), rest))


class _Member:
    """A member to be put into objects."""

    __slots__ = ("key", "spelling", "text")

    def __init__(self, key: str) -> None:
        self.key = key
        self.text = raw.encode(key)
        self.spelling = self.text + b":"

    def put(self, element: Raw, result: bytes) -> Raw:
        text = bytes(element)
        if text[:1] != b"{":
            return element
        if self.text in text or b"\\" in text:
            fields = raw.members(element)
            assert fields is not None
            fields.pop(self.key, None)
            if self.text in text:
                text = raw.encode(fields)
        inner = text[1:-1].rstrip(raw.WHITESPACE)
        comma = b"," if inner.strip(raw.WHITESPACE) else b""
        return Raw(b"{" + inner + comma + self.spelling + result + b"}")


def _walk(value: Raw, path: Path, member: _Member, results: Iterator[bytes], rest: bytes) -> Raw:
    if not path:
        return member.put(value, next(results, rest))
    name, below = path[0], path[1:]
    if name != ANY and (fields := raw.members(value)) is not None:
        if name not in fields:
            return value
        fields[name] = _walk(fields[name], below, member, results, rest)
        return Raw(raw.encode(fields))
    array = raw.items(value)
    if array is None:
        return value
    if name == ANY:
        array = [_walk(element, below, member, results, rest) for element in array]
    elif name.isdecimal() and int(name) < len(array):
        array[int(name)] = _walk(array[int(name)], below, member, results, rest)
    return Raw(b"[" + b",".join(map(bytes, array)) + b"]")
