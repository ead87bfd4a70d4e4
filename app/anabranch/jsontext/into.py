"""Puts values into the elements of an array inside a JSON text: `orders.items` and their products. What is not touched keeps its spelling."""

from collections.abc import Iterator

from msgspec import Raw

from anabranch.jsontext import raw
from anabranch.jsontext.path import ANY, Path


def place(path: Path) -> Path:
    """The path of the elements themselves, for the path of an array, or of something in every element of one."""
    return path if ANY in path else (*path, ANY)


def put_into(value: bytes, path: Path, key: str, results: list[bytes], rest: bytes) -> bytes:
    """`value` with one of `results` under `key` in each object at `path`, in order; in the objects beyond them with `rest`. An element that is not an
    object uses up its result and stays as it is."""
    return _walk(value, path, Member(key), iter(results), rest)


class Member:
    """A member to be put into objects."""

    __slots__ = ("key", "spelling", "text")

    def __init__(self, key: str) -> None:
        self.key = key
        self.text = raw.encode(key)
        self.spelling = self.text + b":"

    def is_new_in(self, text: bytes) -> bool:
        """Whether no object in a JSON text can have it already."""
        return self.text not in text and b"\\u" not in text

    def put(self, element: bytes, result: bytes, *, is_new: bool = False) -> bytes:
        """An element with the member; what is no object stays as it is. `is_new`: it does not have the member."""
        if element[:1] != b"{":
            return element
        if not is_new and not self.is_new_in(element):
            fields = raw.members(element)
            assert fields is not None
            if fields.pop(self.key, None) is not None:
                element = raw.encode(fields)
        return b"".join((element[:-1], b"," if b":" in element else b"", self.spelling, result, b"}"))


def _walk(value: bytes | Raw, path: Path, member: Member, results: Iterator[bytes], rest: bytes) -> bytes:
    if not path:
        return member.put(bytes(value), next(results, rest))
    name, below = path[0], path[1:]
    if name != ANY and (fields := raw.members(value)) is not None:
        if name not in fields:
            return bytes(value)
        fields[name] = Raw(_walk(fields[name], below, member, results, rest))
        return raw.encode(fields)
    array = raw.items(value)
    if array is None:
        return bytes(value)
    if name == ANY:
        put, is_new = member.put, not below and member.is_new_in(bytes(value))
        return b"[%b]" % b",".join(
            [_walk(element, below, member, results, rest) for element in array]
            if below
            else [put(bytes(element), next(results, rest), is_new=is_new) for element in array]
        )
    if name.isdecimal() and int(name) < len(array):
        array[int(name)] = Raw(_walk(array[int(name)], below, member, results, rest))
    return raw.encode(array)
