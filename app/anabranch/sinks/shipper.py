"""Ships a journal to one sink: everything in its segments, in batches, at least once, from a checkpoint.

Reads segments like any other reader, including the one that is being written, so the writer does not depend on it and never waits for it.
When several processes share a folder, one of them ships; another takes over when that one ends. While the sink is unavailable nothing is
lost: the journal keeps what was not shipped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import random
from typing import Final, Self, TypeVar

import msgspec

from anabranch.core.metric import Sample, metric
from anabranch.journal.lines import proven
from anabranch.journal.record import RecordError, read_record
from anabranch.journal.segment import Segment, SegmentDamaged, listed, read_lines
from anabranch.sinks.checkpoint import START, Checkpoint, Position
from anabranch.sinks.sink import Shipment, Sink, SinkError

logger = logging.getLogger("anabranch.journal")

T = TypeVar("T")

# Handing a batch to a database blocks the loop for about 3 ms. Batches four times this size would ship a backlog only a fifth faster.
_BATCH_RECORDS: Final = 500
_BATCH_BYTES: Final = 1024 * 1024
_FIRST_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 30.0
_LAST_ROUND_S: Final = 5.0


SHIPPED: Final = metric("counter", "journal_shipped", "sink", "Records that the sink accepted.")
SHIP_FAILURES: Final = metric("counter", "journal_ship_failures", "sink", "Failed rounds of shipping.")
SHIP_HEALTHY: Final = metric("gauge", "journal_ship_healthy", "sink", "0 while nothing can be shipped to the sink.")


class Shipped(msgspec.Struct):
    """What was shipped since the start. `records`: accepted by the sink. `fresh`: those that were new to it. `failures`: rounds that
    failed. `trouble`: why nothing can be shipped at the moment; None when shipping works."""

    records: int = 0
    fresh: int = 0
    failures: int = 0
    trouble: str | None = None


class Shipper:
    """An async context manager: ships every `interval_s` seconds while it is open. On leaving it ships once more, for at most 5 s, and
    closes `sink`.
    """

    def __init__(self, folder: Path, sink: Sink, *, interval_s: float) -> None:
        self.counters = Shipped()
        self._folder = folder
        self._sink = sink
        self._interval_s = interval_s
        self._checkpoint = Checkpoint(folder, sink.name)
        self._thread = ThreadPoolExecutor(1, "journal-shipper")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The sink's name."""
        return self._sink.name

    def is_needed(self, segment: Segment) -> bool:
        """Whether retention must keep a segment. Blocking; called in the archive's thread."""
        return self._checkpoint.is_needed(segment)

    def waiting(self, segments: Collection[Segment]) -> list[int]:
        """Return the bytes still to be shipped, one number for each segment that is not fully shipped. Blocking. Raises OSError."""
        return self._checkpoint.waiting(segments)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(SHIPPED, (self.name,), self.counters.records)
        yield Sample(SHIP_FAILURES, (self.name,), self.counters.failures)
        yield Sample(SHIP_HEALTHY, (self.name,), float(self.counters.trouble is None))

    async def __aenter__(self) -> Self:
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"ship the journal to {self._sink.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._stopping.set()
        await asyncio.wait((self._task,), timeout=_LAST_ROUND_S)
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect from the sink and release the folder's lock."""
        await self._sink.aclose()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._checkpoint.unlock)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            is_last = self._stopping.is_set()
            wait_s = self._interval_s
            try:
                await self.ship()
            except (SinkError, OSError) as error:
                self._note_failure(error)
                wait_s = backoff_s * (0.5 + random() / 2)  # noqa: S311 - not used for security
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            except Exception:
                logger.exception("unexpected error while shipping the journal to %s; it is tried again", self._sink.name)
                self.counters.failures += 1
                wait_s = _MAX_BACKOFF_S
            else:
                if self.counters.trouble is not None:
                    logger.info("the journal is being shipped to %s again", self._sink.name)
                    self.counters.trouble = None
                backoff_s = _FIRST_BACKOFF_S
            if is_last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    def _note_failure(self, error: SinkError | OSError) -> None:
        self.counters.failures += 1
        reason = str(error) if isinstance(error, SinkError) else f"the journal cannot be read: {error.strerror or error}"
        if self.counters.trouble is None:
            logger.warning("the journal cannot be shipped to %s, and is tried again: %s", self._sink.name, reason)
        self.counters.trouble = reason

    async def ship(self, *, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """Ship everything that is there now. False when there is no journal, or another process ships it.

        `on_progress`: called with the records and bytes of each batch.

        Raises SinkError, OSError. Cancellation: what is not in the checkpoint yet is shipped again.
        """
        if not self._folder.exists() or not await self._blocking(self._checkpoint.lock):
            return False
        segments = await self._blocking(listed, self._folder)
        existing = {str(segment.name) for segment in segments}
        for segment in segments:
            if not self._position(segment).is_done:
                await self._ship_segment(segment, existing, on_progress)
        return True

    async def _ship_segment(self, segment: Segment, existing: set[str], on_progress: Callable[[int, int], None] | None) -> None:
        with contextlib.closing(self._batches(segment)) as batches:
            while True:
                batch = await self._blocking(_next, batches)
                if batch is None:
                    return
                shipments, position, size_bytes = batch
                if shipments:
                    fresh = await self._sink.ship(shipments)
                    self.counters.records += len(shipments)
                    self.counters.fresh += fresh
                if position != self._position(segment):
                    self._checkpoint.positions[str(segment.name)] = position
                    await self._blocking(self._checkpoint.save, existing)
                if on_progress is not None:
                    on_progress(len(shipments), size_bytes)

    def _position(self, segment: Segment) -> Position:
        return self._checkpoint.positions.get(str(segment.name), START)

    async def _blocking(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # ------------------------------------------------------------------------------------------------- in the thread

    def _batches(self, segment: Segment) -> Generator[tuple[list[Shipment], Position, int], None, None]:
        """Yield the unshipped records of a segment in batches, with the position after each batch. Skips damaged lines."""
        position = self._position(segment)
        shipments: list[Shipment] = []
        size_bytes = 0
        try:
            position, raws = _resume(segment, position)
            for line in proven(raws):
                if line.is_torn:
                    break
                position = position.after(line.raw)
                size_bytes += len(line.raw)
                if line.head is not None:
                    with contextlib.suppress(RecordError):
                        shipments.append(Shipment(read_record(line.content), line.content))
                if len(shipments) >= _BATCH_RECORDS or size_bytes >= _BATCH_BYTES:
                    yield shipments, position, size_bytes
                    shipments, size_bytes = [], 0
        except SegmentDamaged as error:
            logger.warning("the journal's segment %s cannot be shipped to its end: %s", segment.path.name, error)
        if segment.is_closed:
            position = msgspec.structs.replace(position, is_done=True)
        yield shipments, position, size_bytes


def _resume(segment: Segment, start: Position) -> tuple[Position, Iterator[bytes]]:
    """Where to go on in a segment, and its lines from there: its beginning when the lines that were shipped are no longer in it."""
    if start.offset:
        end = start.mark.encode("latin-1") + b"\n"
        lines = read_lines(segment, start.offset - len(end))
        if next(lines, None) == end:
            return start, lines
    return START, read_lines(segment)


def _next(batches: Iterator[tuple[list[Shipment], Position, int]]) -> tuple[list[Shipment], Position, int] | None:
    return next(batches, None)
