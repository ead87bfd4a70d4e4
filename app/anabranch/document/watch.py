"""Detects changes of a gateway document on disk: its files, its folder, and the secrets and certificates that it reads from files.

Folders are watched, not files: editors and Kubernetes replace files, the latter by swapping a symbolic link beside them. Only a change of
content counts, so changes of other files in such a folder are ignored.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from watchfiles import awatch

from anabranch.config.problems import Problems
from anabranch.config.source import document_files
from anabranch.core.tasks import cancel_and_wait
from anabranch.document.reload import Reloader

logger = logging.getLogger("anabranch.reload")

_QUIET_MS: Final = 100
"""A change counts once nothing has happened for this long, so that all of several files have been written."""
_BATCH_MS: Final = 1000
"""Upper bound on debouncing."""
_CHECK_MS: Final = 5000
"""Interval of checks without a notification from the system: some file systems (NFS, some container mounts) send none."""


async def changes(document: Path, also: Callable[[], Iterable[str]], *, is_eager: Callable[[], bool]) -> AsyncGenerator[None, None]:
    """Yield after each change of the document. Never ends by itself; cancellation stops watching.

    `document`: the file or folder. `also`: returns the other files that were read for it; called again after each change. `is_eager`: while
    it returns true, a notification counts even if no known content has changed. Meant for a broken document, which may lack a file that now
    appears.
    """
    is_polling: bool | None = None
    seen = await asyncio.to_thread(_contents, document, tuple(also()))
    while True:
        folders = await asyncio.to_thread(_folders, document, tuple(also()))
        try:
            async with aclosing(
                awatch(
                    *folders, watch_filter=None, recursive=False, debounce=_BATCH_MS, step=_QUIET_MS, rust_timeout=_CHECK_MS,
                    yield_on_timeout=True, force_polling=is_polling, ignore_permission_denied=True,
                )
            ) as notifications:  # fmt: skip
                async for notification in notifications:
                    before, seen = seen, await asyncio.to_thread(_contents, document, tuple(also()))
                    if seen.differs_from(before) or (notification and is_eager()):
                        yield
                    if await asyncio.to_thread(_folders, document, tuple(also())) != folders:
                        break
        except OSError as error:
            if is_polling:
                raise
            logger.warning("the system cannot report changes in %s (%s): checking every few seconds instead", document, error)
            is_polling = True


@dataclass(frozen=True, slots=True)
class _Contents:
    """Digests of the files' contents at one moment, by path. `document`: the document itself. `also`: the other files that were read for
    it."""

    document: dict[str, bytes]
    also: dict[str, bytes]

    def differs_from(self, before: "_Contents") -> bool:
        """Whether the document has changed. A file that it newly refers to is not a change by itself."""
        return self.document != before.document or any(before.also.get(path, digest) != digest for path, digest in self.also.items())


def _folders(document: Path, also: Iterable[str]) -> list[Path]:
    """The folders in which a change of these files is visible: those that contain them, and those that their symbolic links lead to."""
    found: set[Path] = set()
    for path in (document, *map(Path, also)):
        found.update((path.parent, path.resolve().parent))
        if path.is_dir():
            found.update((path, path.resolve()))
    return sorted(folder for folder in {folder.absolute() for folder in found} if folder.is_dir())


def _contents(document: Path, also: Iterable[str]) -> _Contents:
    files = document_files(document, Problems())
    return _Contents({str(path): _digest(path) for path in files}, {path: _digest(Path(path)) for path in also})


def _digest(path: Path) -> bytes:
    """A digest of the file's content. An unreadable file counts as a content of its own."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except (OSError, ValueError):
        return b"unreadable"


class Watching:
    """An async context manager: reloads the document whenever it changes on disk."""

    def __init__(self, document: Path, reloader: Reloader) -> None:
        self._document = document
        self._reloader = reloader
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name="watch the document")
        self._task.add_done_callback(_report_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        await cancel_and_wait((self._task,))

    async def _watch(self) -> None:
        reloader = self._reloader
        found = changes(self._document, lambda: reloader.service.files, is_eager=lambda: reloader.state.is_failed)
        async with aclosing(found) as changed:
            async for _ in changed:
                await reloader.reload("watch")


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the document is no longer watched for changes; SIGHUP still reloads it", exc_info=error)
