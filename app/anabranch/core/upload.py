"""Files that a client uploaded, and bodies that contain them: what the plan and the transports know of them, wherever their bytes are."""

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

FILE_KEYS: Final = frozenset({"filename", "content_type", "size", "sha256"})
"""What `{body.file}` has in place of the bytes of a file."""


class Store(Protocol):
    """Where the bytes of uploads are. Implementations may be used from several threads."""

    @property
    def is_spooled(self) -> bool:
        """Whether they are on disk, so that reading them blocks."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """At most `size` bytes from `start`. Raises OSError, also when the request has ended."""
        ...


class Upload(msgspec.Struct, frozen=True, eq=False):
    """One file. `filename`, `content_type`: as the client sent them. `start`: of its bytes in `store`. `sha256`: hex."""

    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    start: int
    store: Store

    def describe(self) -> bytes:
        """JSON text of what is known of it, with the keys `FILE_KEYS`."""
        return msgspec.json.encode(
            {"filename": self.filename, "content_type": self.content_type, "size": self.size_bytes, "sha256": self.sha256}
        )


class StreamedBody:
    """A request body that is not in memory: texts and files one after the other. A `BodySource`; compared by identity."""

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: list[bytes | Upload]) -> None:
        self._pieces: list[tuple[int, bytes | Upload]] = []
        self._size = 0
        for piece in pieces:
            self._pieces.append((self._size, piece))
            self._size += _size(piece)

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, size: int) -> bytes:
        """See `BodySource.read`."""
        return b"".join(self._parts(start, min(start + size, self._size)))

    def _parts(self, start: int, end: int) -> Iterator[bytes]:
        for begin, piece in self._pieces:
            first, last = max(start - begin, 0), min(end - begin, _size(piece))
            if first < last:
                yield piece[first:last] if isinstance(piece, bytes) else piece.store.read(piece.start + first, last - first)


def _size(piece: bytes | Upload) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size_bytes


def body_of(pieces: list[bytes | Upload]) -> bytes | StreamedBody:
    """A request body of these pieces: in memory unless a file of it is on disk."""
    body = StreamedBody(pieces)
    is_spooled = any(isinstance(piece, Upload) and piece.store.is_spooled for piece in pieces)
    return body if is_spooled else body.read(0, len(body))
