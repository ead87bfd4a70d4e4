"""File system access for the writer: one thread of its own, and appends through aiofiles. A call either succeeds or raises OSError.

Writing to a deleted file raises OSError; otherwise the data would be lost silently.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import sleep
from typing import Final, TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from anabranch.journal.segment import FILE_MODE, drop_from_page_cache, sync_folder

T = TypeVar("T")

_LOCK_TRIES: Final = 10
_LOCK_PAUSE_S: Final = 0.02


class Appender:
    """One open segment. `size_bytes`: appended so far, on disk or not."""

    __slots__ = ("_disk", "_file", "path", "size_bytes")

    def __init__(self, path: Path, file: AsyncFileIO, disk: "Disk") -> None:
        self.path = path
        self.size_bytes = 0
        self._file = file
        self._disk = disk

    async def append(self, data: bytes) -> None:
        """Append all of `data`. After an OSError any part of it may have been written."""
        rest = memoryview(data)
        while rest:
            written = await self._file.write(rest)
            self.size_bytes += written
            rest = rest[written:]

    async def sync(self) -> None:
        """Return when everything appended is on disk. Raises OSError, also when the file was deleted."""
        await self._disk.run(self._sync)

    def _sync(self) -> None:
        descriptor = self._file.fileno()
        os.fdatasync(descriptor)
        drop_from_page_cache(descriptor, self.size_bytes)
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the segment was deleted while it was written")

    async def truncate(self, size_bytes: int) -> None:
        """Discard everything after the first `size_bytes`."""
        await self._disk.run(self._truncate, size_bytes)

    def _truncate(self, size_bytes: int) -> None:
        descriptor = self._file.fileno()
        os.ftruncate(descriptor, size_bytes)
        os.fsync(descriptor)
        self.size_bytes = size_bytes

    async def close(self) -> None:
        await self._file.close()


class Disk:
    """The folder of a journal. `prepare` creates it and takes this worker's lock. It may be called again after a failure."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder = folder
        self.worker = worker
        self._lock: int | None = None
        self._thread = ThreadPoolExecutor(1, "journal-writer")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in the writer's thread. Calls run one after the other, each to its end even if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    async def prepare(self) -> None:
        """Create the folder, and lock this worker's file in it, which marks the worker as alive. Raises OSError."""
        await self.run(self._prepare)

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._lock is not None and not self._is_locked(self._lock):
            os.close(self._lock)
            self._lock = None
        if self._lock is None:
            self._lock = self._take_lock()
        if self._lock is None:
            raise OSError(errno.EAGAIN, f"another process holds the lock of the worker {self.worker}")

    def _take_lock(self) -> int | None:
        """Whoever looks whether a worker is alive holds its lock for a moment, so one that is held is tried again."""
        for _ in range(_LOCK_TRIES):
            if (descriptor := lock(self.folder, self.worker)) is not None:
                return descriptor
            sleep(_LOCK_PAUSE_S)
        return None

    def _is_locked(self, descriptor: int) -> bool:
        """Whether the locked file is still the one with the lock's name."""
        try:
            return os.path.samestat(os.fstat(descriptor), lock_path(self.folder, self.worker).stat())
        except FileNotFoundError:
            return False

    async def create(self, name: str) -> Appender:
        """Create a segment, with its name on disk. Raises OSError; FileExistsError when the name is taken."""
        path = self.folder / name
        file = await aiofiles.open(path, "xb", buffering=0, opener=_opener, executor=self._thread)
        try:
            await self.run(sync_folder, self.folder)
        except OSError:
            await file.close()
            raise
        return Appender(path, file, self)

    async def free_bytes(self) -> int:
        """Free space on the file system that this process may use. Raises OSError."""
        return await self.run(self._free_bytes)

    def _free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def release(self) -> None:
        """Release the lock and delete its file."""
        if self._lock is not None:
            unlock(self.folder, self.worker, self._lock)
            self._lock = None

    async def close(self) -> None:
        await self.run(self.release)
        self._thread.shutdown(wait=False)


def lock_path(folder: Path, worker: str) -> Path:
    return folder / f"worker-{worker}.lock"


def lock(folder: Path, worker: str) -> int | None:
    """Lock a worker's file, created if missing. Returns its descriptor, or None when another process holds it. Raises OSError."""
    descriptor = os.open(lock_path(folder, worker), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def unlock(folder: Path, worker: str, descriptor: int) -> None:
    """Delete the lock's file, then release the lock. Never raises: the system releases the lock in any case."""
    try:
        lock_path(folder, worker).unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, FILE_MODE)
