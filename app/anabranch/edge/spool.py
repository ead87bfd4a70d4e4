"""Keeps the bytes of a request's uploads: in memory up to 1 MiB, and beyond that in a temporary file without a name.

The file has no name in its folder (or loses it at once), so nothing is left of it when it is closed or the process ends, in whatever way. Files are
written and read on threads.
"""

import asyncio
import tempfile
from threading import Lock
from typing import BinaryIO, Final

SPOOL_ABOVE_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 256 * 1024


class Spool:
    """An `upload.Store` of one request. `append` and `settle` belong to the event loop, `read` to any thread, `close` to the end of the request.

    `size_bytes`: what has been appended.
    """

    __slots__ = ("_file", "_is_closed", "_lock", "_pending", "size_bytes")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._file: BinaryIO | None = None
        self._lock = Lock()
        self._is_closed = False
        self.size_bytes = 0

    @property
    def is_spooled(self) -> bool:
        return self._file is not None

    def append(self, data: bytes | memoryview) -> None:
        self._pending += data
        self.size_bytes += len(data)

    async def settle(self, *, is_last: bool = False) -> None:
        """Write to disk what is too much for the memory; `is_last`: nothing more will be appended. Raises OSError."""
        size = len(self._pending)
        if size > SPOOL_ABOVE_BYTES or (self._file is not None and (size >= _PIECE_BYTES or (is_last and size))):
            pending, self._pending = self._pending, bytearray()
            await asyncio.to_thread(self._write, pending)

    def read(self, start: int, size: int) -> bytes:
        """See `upload.Store`."""
        try:
            with self._lock:
                if self._is_closed:
                    raise OSError("the request has ended, and its files are gone")
                if self._file is None:
                    return bytes(self._pending[start : start + size])
                self._file.seek(start)
                return self._file.read(size)
        finally:
            self._close_late()

    def close(self) -> None:
        """Remove everything. May be called twice. Never waits for a disk: a thread that reads or writes at this moment removes it when it is done."""
        self._is_closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._pending = bytearray()
                if self._file is not None:
                    self._file.close()
            finally:
                self._lock.release()

    def _close_late(self) -> None:
        # Behind the release of the lock: either this or `close` itself gets it.
        if self._is_closed:
            self.close()

    def _write(self, data: bytearray) -> None:
        try:
            with self._lock:
                if self._is_closed:
                    return
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="anabranch-")  # noqa: SIM115 - closed at the end of the request
                self._file.write(data)
                self._file.flush()
        finally:
            self._close_late()
