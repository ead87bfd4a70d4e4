"""Compresses closed segments, and deletes those that retention no longer keeps. One task and one thread of low priority.

Also recovers what dead workers left, at the start and at intervals. Never holds up the writer or a request. Whatever fails is tried again
in the next round.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Final

from anabranch.config.journal import Journal as Config
from anabranch.journal.counters import JournalCounters
from anabranch.journal.recovery import Recovery, recover, recover_segment
from anabranch.journal.segment import Segment, Summary, compress, listed

logger = logging.getLogger("anabranch.journal")

_ROUND_S: Final = 30.0
_NICE: Final = 10
_PAUSE_S: Final = 0.001


class Archive:
    """`submit` accepts a segment; `run` is the task's body and ends after `close`.

    `is_needed`: whether a closed segment must be kept although retention would delete it, because a sink has not shipped it yet.
    `round_s`: interval of recovery and retention, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        counters: JournalCounters,
        *,
        is_needed: Callable[[Segment], bool] | None = None,
        round_s: float = _ROUND_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._config = config
        self._counters = counters
        self._is_needed = is_needed
        self._round_s = round_s
        self._now = now
        self._pending: dict[Path, Summary | None] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._thread = ThreadPoolExecutor(1, "journal-archive", initializer=_lower_priority)

    def submit(self, path: Path, summary: Summary | None) -> None:
        """Compress a plain segment of this worker. `summary` None: scan it first and cut off a torn tail."""
        self._pending[path] = summary
        self._wake.set()

    def close(self) -> None:
        """Finish what was submitted; `run` then ends."""
        self._is_closing = True
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_round = loop.time()
        try:
            while True:
                is_last = self._is_closing
                self._wake.clear()
                is_round = not is_last and loop.time() >= next_round
                await loop.run_in_executor(self._thread, self._work, dict(self._pending), is_round)
                if is_round:
                    next_round = loop.time() + self._round_s
                if is_last:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_round):
                        await self._wake.wait()
        finally:
            self._thread.shutdown(wait=False)

    # ------------------------------------------------------------------------------------------------- in the thread

    def _work(self, pending: dict[Path, Summary | None], is_round: bool) -> None:
        for path, summary in pending.items():
            self._close_segment(path, summary)
        if is_round:
            try:
                self._note(recover(self._folder))
            except FileNotFoundError:
                return
            except OSError as error:
                logger.warning("the journal's folder %s cannot be read for recovery and retention: %s", self._folder, error.strerror)
                return
        if is_round or pending:
            self.retain()

    def _close_segment(self, path: Path, summary: Summary | None) -> None:
        try:
            if summary is None:
                done = Recovery()
                recover_segment(path, done)
                self._note(done)
            else:
                compress(path, summary, self._pause)
                self._counters.compressed += 1
        except FileNotFoundError:
            logger.warning("the journal's segment %s was deleted before it was compressed", path.name)
        except OSError as error:
            logger.warning(
                "the journal's segment %s could not be compressed, and is tried again later: %s", path.name, error.strerror or error
            )
            return
        self._pending.pop(path, None)

    def _pause(self) -> None:
        """Yield the core to requests: low priority alone still takes it for some milliseconds at a stretch. Skipped when work piles up."""
        if len(self._pending) <= 1 and not self._is_closing:
            sleep(_PAUSE_S)

    def _note(self, done: Recovery) -> None:
        counters = self._counters
        counters.recovered += done.segments
        counters.compressed += done.segments
        counters.torn_bytes += done.torn_bytes
        counters.damaged += done.damaged
        counters.set_aside += done.set_aside

    def retain(self) -> None:
        """Delete closed segments that exceed `keep_age` or `keep_size`. Never raises."""
        keep_age_s, keep_size = self._config.keep_age_s, self._config.keep_size
        if keep_age_s is None and keep_size is None:
            return
        try:
            segments = listed(self._folder)
        except OSError:
            return
        oldest = None if keep_age_s is None else self._now() - timedelta(seconds=keep_age_s)
        size = sum(segment.size_bytes for segment in segments)
        for segment in segments:
            if not segment.is_closed:
                continue
            last = segment.name.created if segment.summary is None else segment.summary.last
            is_too_old = oldest is not None and last < oldest
            if not is_too_old and (keep_size is None or size <= keep_size):
                continue
            if self._is_needed is not None and self._is_needed(segment):
                continue
            try:
                segment.path.unlink()
            except FileNotFoundError:
                size -= segment.size_bytes
            except OSError as error:
                logger.warning("the journal's segment %s cannot be deleted: %s", segment.path.name, error.strerror)
            else:
                size -= segment.size_bytes
                self._counters.deleted += 1


def _lower_priority() -> None:
    """Give requests precedence over this thread. On Linux, priorities belong to threads."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
