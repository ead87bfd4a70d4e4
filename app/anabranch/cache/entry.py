"""What is stored under a key, and its form in the shared store.

The form has a version and a checksum. A value of another version, a broken one and one that belongs to another key are no entries.
"""

from typing import Final
from zlib import crc32

import msgspec

from anabranch.core.exchange import Answer

_VERSION: Final = b"a1"
# Measured with tracemalloc.
_OVERHEAD_BYTES: Final = 600
_FIELD_BYTES: Final = 130
_TAG_BYTES: Final = 330


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """A stored answer. All times are seconds since the epoch.

    `key`: what it is stored under. `upstream`, `path`: what it is an answer of, without the query. `answer`: without fields that are not to be stored. `requested_s`: when it was asked for.
    `since_s`: when the service generated it: its age counts from there (RFC 9111 section 4.2.3). `fresh_until_s`: 0 when it must be validated in any case. `revalidate_until_s`: until then
    it is served stale while it is validated. `error_until_s`: until then it is served stale when validation fails. `has_freshness`: whether anything says how
    long it is fresh. `must_revalidate`: it is never served stale. `etag`, `last_modified`: b"" without.
    `is_fallback`: of a call that is no HTTP cache; it is only in the memory of its process. `was_stale`: it was stale when it arrived, so it is of use to nobody else
    without validation, and requests for it do not wait for each other.
    """

    key: bytes
    upstream: str
    path: str
    answer: Answer
    requested_s: float
    since_s: float
    fresh_until_s: float
    revalidate_until_s: float
    error_until_s: float
    has_freshness: bool
    must_revalidate: bool
    etag: bytes
    last_modified: bytes
    tags: tuple[str, ...] = ()
    is_fallback: bool = False
    was_stale: bool = False

    @property
    def size_bytes(self) -> int:
        """Approximate memory in use."""
        answer = self.answer
        fields = sum(_FIELD_BYTES + len(name) + len(value) for name, value in answer.headers)
        tags = sum(_TAG_BYTES + len(tag) for tag in self.tags)
        return _OVERHEAD_BYTES + len(self.key) + len(answer.body) + fields + tags

    @property
    def has_validator(self) -> bool:
        return bool(self.etag or self.last_modified)


class Variants(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """Stands where the entries of one request differ by header fields of the request. `names`: of the fields, in lower case, sorted."""

    key: bytes
    names: tuple[bytes, ...]
    until_s: float

    @property
    def size_bytes(self) -> int:
        return _OVERHEAD_BYTES // 2 + len(self.key) + sum(map(len, self.names))


class Uncacheable(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """Stands where the last answer could not be stored: until `until_s`, requests do not wait for each other's answers."""

    key: bytes
    until_s: float

    @property
    def size_bytes(self) -> int:
        return _OVERHEAD_BYTES // 2 + len(self.key)


Slot = Entry | Variants | Uncacheable
_DECODER: Final = msgspec.msgpack.Decoder(Slot)


def encode(slot: Slot) -> bytes:
    body = msgspec.msgpack.encode(slot)
    return b"%b%b%b" % (_VERSION, crc32(body).to_bytes(4, "big"), body)


def decode(value: bytes, key: bytes) -> Slot | None:
    """The slot of `key`; None for anything else."""
    if value[:2] != _VERSION or crc32(value[6:]) != int.from_bytes(value[2:6], "big"):
        return None
    try:
        slot = _DECODER.decode(value[6:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return slot if slot.key == key else None
