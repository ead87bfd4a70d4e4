"""What entries are out of date at once, as a message to all gateways of a fleet."""

from collections.abc import Iterable
from typing import Final

import msgspec

from anabranch.cache.entry import Entry

ALL: Final = "*"


class Purge(msgspec.Struct, frozen=True, array_like=True):
    """`at_s`: entries asked for after this stay, in seconds since the epoch. `by`: the gateway that has sent it. `tags`. `paths`: of calls, without query and host; one that ends in `*` is
    the beginning of paths. `places`: upstream and path of what was changed by a call. `everything`."""

    at_s: float
    by: bytes
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = ()
    everything: bool = False

    def concerns(self, entry: Entry) -> bool:
        """Whether it names the entry, however old that is."""
        return (
            self.everything
            or any(tag in entry.tags for tag in self.tags)
            or any(matches(path, entry.path) for path in self.paths)
            or (entry.upstream, entry.path) in self.places
        )

    def ends(self, entry: Entry, skew_s: float = 0.0) -> bool:
        """Whether the entry is out of date. `skew_s`: by how much the clocks of two gateways may differ."""
        return entry.requested_s <= self.at_s + skew_s and self.concerns(entry)


def matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith(ALL) else path == pattern


_MESSAGE: Final = msgspec.msgpack.Decoder(Purge)
_LIST: Final = msgspec.msgpack.Decoder(list[Purge])


def decode(message: bytes) -> Purge | None:
    """A purge from a message; None for anything else."""
    try:
        return _MESSAGE.decode(message)
    except msgspec.DecodeError:
        return None


def decode_list(value: bytes | None) -> list[Purge]:
    """The purges in a stored list; none for anything else."""
    try:
        return [] if value is None else _LIST.decode(value)
    except msgspec.DecodeError:
        return []


def encode(purge: "Purge | Iterable[Purge]") -> bytes:
    return msgspec.msgpack.encode(purge if isinstance(purge, Purge) else list(purge))
