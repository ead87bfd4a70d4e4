"""Notices that a gateway document has changed on the disk: its files, its folder, the secrets and certificates that it takes from files.

Folders are watched, not files: editors and Kubernetes replace files, the latter by swapping a symbolic link beside them. What counts in the
end is the content, so a change of something else in such a folder is none. Knows nothing of what the document means, nor of what is done
about it.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchfiles import awatch

from anabranch.config.problems import Problems
from anabranch.config.source import document_files

logger = logging.getLogger("anabranch.reload")

_QUIET_MS: Final = 100
"""A change counts when nothing has happened for so long: whoever writes several files is done by then."""
_BATCH_MS: Final = 1000
"""Nobody who never stops writing can put a change off for longer."""
_LOOK_MS: Final = 5000
"""Without a sign from the system we look for ourselves so often: some file systems (NFS, some container mounts) give none."""


async def changes(document: Path, also: Callable[[], Iterable[str]], *, is_eager: Callable[[], bool]) -> AsyncGenerator[None, None]:
    """Yield after each change of the document. Never ends by itself; cancellation stops the watching.

    `document`: the file or folder. `also`: what else was read for it, asked again after each change. `is_eager`: a sign from the folders
    counts even when no content that we know of has changed; for a document that is broken, because it may lack a file that comes now.
    """
    is_polling: bool | None = None
    seen = await asyncio.to_thread(_contents, document, tuple(also()))
    while True:
        folders = await asyncio.to_thread(_folders, document, tuple(also()))
        try:
            async with aclosing(
                awatch(
                    *folders, watch_filter=None, recursive=False, debounce=_BATCH_MS, step=_QUIET_MS, rust_timeout=_LOOK_MS,
                    yield_on_timeout=True, force_polling=is_polling, ignore_permission_denied=True,
                )
            ) as signs:  # fmt: skip
                async for sign in signs:
                    before, seen = seen, await asyncio.to_thread(_contents, document, tuple(also()))
                    if seen.differs_from(before) or (sign and is_eager()):
                        yield
                    if await asyncio.to_thread(_folders, document, tuple(also())) != folders:
                        break
        except OSError as error:
            if is_polling:
                raise
            logger.warning("the system cannot tell of changes in %s (%s): looking every few seconds instead", document, error)
            is_polling = True


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the files held at one moment, by their paths. `document`: the document itself. `also`: what else was read for it."""

    document: dict[str, bytes]
    also: dict[str, bytes]

    def differs_from(self, before: "_Contents") -> bool:
        """Whether the document has changed. A file that it has only begun to need is no change by itself."""
        return self.document != before.document or any(before.also.get(path, digest) != digest for path, digest in self.also.items())


def _folders(document: Path, also: Iterable[str]) -> list[Path]:
    """Where a change of these files shows: the folders that they are in, and those that their symbolic links lead to."""
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
    """Of what the file holds. That it cannot be read is a content too."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except (OSError, ValueError):
        return b"unreadable"
