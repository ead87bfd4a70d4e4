"""The journal of one process: opens and closes its writer and its archive together. Accepts encoded lines and does not look into them."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from anabranch.config.journal import Journal as Config
from anabranch.core.metric import Sample
from anabranch.core.tasks import start_protected
from anabranch.journal import counters
from anabranch.journal.archive import Archive
from anabranch.journal.counters import JournalCounters
from anabranch.journal.disk import Disk
from anabranch.journal.queue import Queue
from anabranch.journal.segment import Segment
from anabranch.journal.writer import Writer


def new_worker() -> str:
    """A random name for one writer of segments. A process id would not do: it repeats across machines and after restarts."""
    return secrets.token_hex(5)


class Journal:
    """An async context manager. Opening it never fails: a folder that cannot be used is retried, as after a later failure.

    `folder`: overrides the one in `config`. `is_needed`: see Archive.
    `disk`: replaces the real one in tests.

    `queue`: read by metrics; None until the journal is open.

    Leaving the context writes everything queued to disk and compresses the last segment.
    """

    def __init__(
        self,
        config: Config,
        *,
        folder: Path | None = None,
        is_needed: Callable[[Segment], bool] | None = None,
        disk: Disk | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.config = config
        self.folder = Path(config.path) if folder is None else folder
        self.counters = JournalCounters()
        self.queue: Queue | None = None
        self._is_needed = is_needed
        self._disk = disk
        self._now = now
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        disk = Disk(self.folder, new_worker()) if self._disk is None else self._disk
        self.worker = disk.worker
        archive = Archive(self.folder, self.config, self.counters, is_needed=self._is_needed)
        writer = Writer(disk, self.config, self.counters, on_closed=archive.submit)
        self.queue = writer.queue
        self.offer = writer.offer
        self.defer = writer.defer
        self.put = writer.put if self.config.on_full == "wait" else self._offer
        self.commit = writer.commit
        async with AsyncExitStack() as exits:
            exits.push_async_callback(disk.close)
            exits.push_async_callback(_finish, archive, start_protected(archive.run(), name="journal-archive"))
            exits.push_async_callback(_finish, writer, start_protected(writer.run(), name="journal-writer"))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`. The counters restart at zero when the document is reloaded."""
        done, queue = self.counters, self.queue
        if queue is not None:
            oldest = queue.oldest
            yield Sample(counters.JOURNAL_QUEUE, (), queue.records)
            yield Sample(counters.JOURNAL_QUEUE_BYTES, (), queue.size_bytes)
            yield Sample(counters.JOURNAL_LAG, (), 0.0 if oldest is None else max((self._now() - oldest).total_seconds(), 0.0))
        yield Sample(counters.JOURNAL_RECORDS, (), done.written)
        yield Sample(counters.JOURNAL_BYTES, (), done.written_bytes)
        yield Sample(counters.JOURNAL_COMMITS, (), done.commits)
        yield Sample(counters.JOURNAL_DROPPED, ("full",), done.dropped)
        yield Sample(counters.JOURNAL_DROPPED, ("refused",), done.refused)
        yield Sample(counters.JOURNAL_FAILURES, (), done.failures)
        yield Sample(counters.JOURNAL_DAMAGED, (), done.damaged)
        yield Sample(counters.JOURNAL_TORN, (), done.torn_bytes)
        yield Sample(counters.JOURNAL_WRITABLE, (), float(done.trouble is None))

    def notes(self) -> Iterator[str]:
        """What readiness says of a journal that cannot be written. It does not affect readiness: other endpoints keep working."""
        if self.counters.trouble is not None:
            yield f"the journal cannot be written: {self.counters.trouble}"

    async def _offer(self, line: bytes, time: datetime, deadline: float) -> bool:
        return self.offer(line, time)


async def _finish(worker: Writer | Archive, task: "asyncio.Task[None]") -> None:
    """Close a worker and wait for its task. It is not cancelled: accepted records would be lost."""
    worker.close()
    await asyncio.shield(task)
