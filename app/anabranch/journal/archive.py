"""What happens to segments once they are not written any more: compressed, kept for a while, deleted. One task and one thread of low priority.

Also looks after what dead workers left, at the start and every now and then. Nothing here holds up the writer or a request; what fails is
tried again at the next round.
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
    """`submit` takes a segment; `run` is the task's body and ends after `close`.

    `is_needed`: whether a closed segment must be kept though retention would delete it, because a sink has not shipped it yet.
    `round_s`: how often it looks after everything, in seconds.
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
        self._thread = ThreadPoolExecutor(1, "journal-archive", initializer=_be_nice)

    def submit(self, path: Path, summary: Summary | None) -> None:
        """Compress this plain segment of ours. `summary` None: look into it first, and cut off what is torn."""
        self._pending[path] = summary
        self._wake.set()

    def close(self) -> None:
        """Finish what was submitted; `run` ends then."""
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
                logger.warning("the journal's folder %s cannot be looked after: %s", self._folder, error.strerror)
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
            logger.warning("the journal's segment %s has vanished before it was compressed", path.name)
        except OSError as error:
            logger.warning("the journal's segment %s stays uncompressed for now: %s", path.name, error.strerror or error)
            return
        self._pending.pop(path, None)

    def _pause(self) -> None:
        """Let requests go first: low priority alone still takes the core for some milliseconds at a stretch. Not where work piles up."""
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
        """Delete the closed segments that are too old or too many. Never raises."""
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


def _be_nice() -> None:
    """Let requests go first. On Linux a priority belongs to a thread."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
