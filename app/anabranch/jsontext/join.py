"""Joins two JSON arrays by keys, in linear time. What is not touched keeps its spelling."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from anabranch.jsontext import raw
from anabranch.jsontext.frame import Missing
from anabranch.jsontext.into import Member
from anabranch.jsontext.path import Path
from anabranch.jsontext.project import Row, table

_text_of: Callable[[bytes], str] = msgspec.json.Decoder(str).decode
_EMPTY = b"[]"

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """`left`, `right`: paths of the keys in the elements of each array, pair by pair. `name`: the member of a left element that holds what matches. `is_inner`:
    elements without a match are dropped. `is_many`: all that match, as an array; otherwise the first."""

    left: tuple[Path, ...]
    right: tuple[Path, ...]
    name: str
    is_inner: bool = False
    is_many: bool = False


def join(left: bytes, right: bytes, rule: Join) -> bytes:
    """The elements of `left`, each object with what matches it in `right`. Both are JSON text of arrays.

    Keys are compared as text, so that `17` and `"17"` are equal. An element with a key that is missing, null, an array or an object matches nothing. What is not an
    object stays as it is, or is dropped by an inner join.
    """
    keys_left, keys_right = _tables(rule)
    found: dict[Key, bytes | list[bytes]] = {}
    for element, row in zip(raw.items(right) or (), keys_right(right), strict=True):
        if (key := _key(row)) is None:
            continue
        if rule.is_many:
            found.setdefault(key, []).append(bytes(element))  # type: ignore[union-attr]
        elif key not in found:
            found[key] = bytes(element)
    matches: dict[Key, bytes] = {key: b"[" + b",".join(each) + b"]" if isinstance(each, list) else each for key, each in found.items()}
    nothing = _EMPTY if rule.is_many else raw.NULL
    put = Member(rule.name).put
    joined: list[bytes] = []
    for element, row in zip(raw.items(left) or (), keys_left(left), strict=True):
        key = _key(row)
        match = None if key is None else matches.get(key)
        if match is not None:
            joined.append(put(bytes(element), match))
        elif not rule.is_inner:
            joined.append(put(bytes(element), nothing))
    return b"[" + b",".join(joined) + b"]"


@lru_cache(maxsize=1024)
def _tables(rule: Join) -> tuple[Callable[[bytes], list[Row]], Callable[[bytes], list[Row]]]:
    return table(list(rule.left)), table(list(rule.right))


def _key(row: Row) -> Key | None:
    """The text of each key of an element; None when one is no single value."""
    texts = []
    for cell in row:
        if isinstance(cell, Missing) or cell == raw.NULL or cell[:1] in (b"{", b"["):
            return None
        texts.append(_text_of(cell) if cell[:1] == b'"' else cell.decode())
    return tuple(texts)
