"""The file system as the writer uses it: one thread of its own, appending through aiofiles, and every call either done or an OSError.

A file that nobody can find any more is an error like a full disk: what is written to it would be lost without a sign.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO

from anabranch.journal.segment import FILE_MODE, forget, sync_folder

T = TypeVar("T")


class Appender:
    """One open segment. `size_bytes`: what has been appended, on the disk or not."""

    __slots__ = ("_disk", "_file", "path", "size_bytes")

    def __init__(self, path: Path, file: AsyncFileIO, disk: "Disk") -> None:
        self.path = path
        self.size_bytes = 0
        self._file = file
        self._disk = disk

    async def append(self, data: bytes) -> None:
        """Append all of `data`, or raise OSError with any part of it written."""
        rest = memoryview(data)
        while rest:
            written = await self._file.write(rest)
            self.size_bytes += written
            rest = rest[written:]

    async def sync(self) -> None:
        """Return when everything appended is on the disk, under a name."""
        await self._disk.run(self._sync)

    def _sync(self) -> None:
        descriptor = self._file.fileno()
        os.fdatasync(descriptor)
        forget(descriptor, self.size_bytes)
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the segment was deleted while it was written")

    async def cut(self, size_bytes: int) -> None:
        """Forget what was appended after the first `size_bytes`."""
        await self._disk.run(self._cut, size_bytes)

    def _cut(self, size_bytes: int) -> None:
        descriptor = self._file.fileno()
        os.ftruncate(descriptor, size_bytes)
        os.fsync(descriptor)
        self.size_bytes = size_bytes

    async def close(self) -> None:
        await self._file.close()


class Disk:
    """The folder of a journal. `prepare` makes it and takes this worker's lock; it may be called again after trouble."""

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder = folder
        self.worker = worker
        self._lock: int | None = None
        self._thread = ThreadPoolExecutor(1, "journal-writer")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in the writer's thread. It ends even when the caller is cancelled; calls run one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    async def prepare(self) -> None:
        """The folder is there, and locked files in it say that this worker lives. Raises OSError."""
        await self.run(self._prepare)

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        if self._lock is not None and not self._is_locked(self._lock):
            os.close(self._lock)
            self._lock = None
        if self._lock is None:
            self._lock = lock(self.folder, self.worker)
        if self._lock is None:
            raise OSError(errno.EAGAIN, f"another process holds the lock of the worker {self.worker}")

    def _is_locked(self, descriptor: int) -> bool:
        """Whether the file that we hold is still the one that others find."""
        try:
            return os.path.samestat(os.fstat(descriptor), lock_path(self.folder, self.worker).stat())
        except FileNotFoundError:
            return False

    async def create(self, name: str) -> Appender:
        """A new segment, its name on the disk. Raises OSError; FileExistsError when there is one of that name."""
        path = self.folder / name
        file = await aiofiles.open(path, "xb", buffering=0, opener=_opener, executor=self._thread)
        try:
            await self.run(sync_folder, self.folder)
        except OSError:
            await file.close()
            raise
        return Appender(path, file, self)

    async def free_bytes(self) -> int:
        """Room that is left for us on the file system. Raises OSError."""
        return await self.run(self._free_bytes)

    def _free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def release(self) -> None:
        """Give the lock back; its file goes with it."""
        if self._lock is not None:
            unlock(self.folder, self.worker, self._lock)
            self._lock = None

    async def close(self) -> None:
        await self.run(self.release)
        self._thread.shutdown(wait=False)


def lock_path(folder: Path, worker: str) -> Path:
    return folder / f"worker-{worker}.lock"


def lock(folder: Path, worker: str) -> int | None:
    """Lock a worker's file, made when it is not there. Returns its descriptor, None when somebody else holds it. Raises OSError."""
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
    """Delete the lock's file, then let go of it. Never raises: the system lets go of the lock in any case."""
    try:
        lock_path(folder, worker).unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, FILE_MODE)
