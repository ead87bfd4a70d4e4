"""Reads, at scrape time, the numbers that other parts keep as plain attributes. Each function returns the `metrics.Source` of one part.

The parts do not import metrics. The protocols here declare what is read from them.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

from anabranch.compute.job import ComputePool
from anabranch.document.reload import ReloadState
from anabranch.journal.journal import Journal
from anabranch.observe import catalogue as names
from anabranch.observe.metrics import Sample, Source
from anabranch.observe.sink import LineSink
from anabranch.sinks.open import Shippers


class _Reloader(Protocol):
    @property
    def state(self) -> ReloadState: ...


def of_reloads(reloader: _Reloader) -> Source:
    """The document in force, and the results of reloads."""

    def read() -> Iterator[Sample]:
        state = reloader.state
        yield Sample(names.RELOADS.name, ("ok",), state.succeeded)
        yield Sample(names.RELOADS.name, ("failed",), state.failed)
        yield Sample(names.RELOAD_FAILED.name, (), float(state.is_failed))
        yield Sample(names.GENERATION.name, (), state.generation)
        yield Sample(names.LOADED.name, (), state.loaded_at)
        yield Sample(names.RETIRING.name, (), state.retiring)

    return read


class _Slots(Protocol):
    @property
    def in_use(self) -> int: ...

    @property
    def limit(self) -> int: ...


class _Gate(Protocol):
    @property
    def bulkhead(self) -> _Slots: ...

    @property
    def queued(self) -> int: ...

    @property
    def shed(self) -> int: ...


def of_gates(gates: Callable[[], Mapping[str, _Gate]]) -> Source:
    """Concurrency limits, by endpoint name; "" for the whole gateway."""

    def read() -> Iterator[Sample]:
        for endpoint, gate in gates().items():
            yield Sample(names.GATE_IN_USE.name, (endpoint,), gate.bulkhead.in_use)
            yield Sample(names.GATE_QUEUED.name, (endpoint,), gate.queued)
            yield Sample(names.GATE_LIMIT.name, (endpoint,), gate.bulkhead.limit)
            yield Sample(names.GATE_SHED.name, (endpoint,), gate.shed)

    return read


def of_journal(journal: Callable[[], Journal | None], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Source:
    """The journal of the document in force. `journal`: returns None when there is none."""

    def read() -> Iterator[Sample]:
        found = journal()
        if found is None:
            return
        counters, queue = found.counters, found.queue
        if queue is not None:
            oldest = queue.oldest
            yield Sample(names.JOURNAL_QUEUE.name, (), queue.records)
            yield Sample(names.JOURNAL_QUEUE_BYTES.name, (), queue.size_bytes)
            yield Sample(names.JOURNAL_LAG.name, (), 0.0 if oldest is None else max((now() - oldest).total_seconds(), 0.0))
        yield Sample(names.JOURNAL_RECORDS.name, (), counters.written)
        yield Sample(names.JOURNAL_BYTES.name, (), counters.written_bytes)
        yield Sample(names.JOURNAL_COMMITS.name, (), counters.commits)
        yield Sample(names.JOURNAL_DROPPED.name, ("full",), counters.dropped)
        yield Sample(names.JOURNAL_DROPPED.name, ("refused",), counters.refused)
        yield Sample(names.JOURNAL_FAILURES.name, (), counters.failures)
        yield Sample(names.JOURNAL_DAMAGED.name, (), counters.damaged)
        yield Sample(names.JOURNAL_TORN.name, (), counters.torn_bytes)
        yield Sample(names.JOURNAL_WRITABLE.name, (), float(counters.trouble is None))

    return read


def of_shippers(shippers: Callable[[], Shippers | None]) -> Source:
    """The sinks of the current journal. `shippers`: returns None when the journal is not shipped."""

    def read() -> Iterator[Sample]:
        found = shippers()
        for shipper in () if found is None else found.each:
            counters = shipper.counters
            yield Sample(names.SHIPPED.name, (shipper.name,), counters.records)
            yield Sample(names.SHIP_FAILURES.name, (shipper.name,), counters.failures)
            yield Sample(names.SHIP_HEALTHY.name, (shipper.name,), float(counters.trouble is None))

    return read


def of_compute(pools: Callable[[], Mapping[str, ComputePool]]) -> Source:
    """The compute pools of the document in force, by name."""

    def read() -> Iterator[Sample]:
        for pool, one in pools().items():
            counters = one.counters
            yield Sample(names.COMPUTE_WORKERS.name, (pool,), counters.workers)
            yield Sample(names.COMPUTE_RUNNING.name, (pool,), counters.running)
            yield Sample(names.COMPUTE_QUEUED.name, (pool,), counters.queued)
            yield Sample(names.COMPUTE_STUCK.name, (pool,), counters.stuck)
            yield Sample(names.COMPUTE_JOBS.name, (pool, "ok"), counters.done)
            for result in ("failed", "timed_out", "lost", "rejected", "cancelled"):
                yield Sample(names.COMPUTE_JOBS.name, (pool, result), getattr(counters, result))
            yield Sample(names.COMPUTE_RESTARTS.name, (pool,), counters.restarts)
            yield Sample(names.COMPUTE_QUEUE_SECONDS.name, (pool,), counters.queue_s)
            yield Sample(names.COMPUTE_RUN_SECONDS.name, (pool,), counters.run_s)

    return read


def of_log(sink: LineSink) -> Source:
    """Log lines that could not be written."""
    return lambda: (Sample(names.LOG_LINES_LOST.name, (), sink.lost),)


class _Refusals(Protocol):
    @property
    def counts(self) -> Mapping[str, int]: ...


def of_refusals(refusals: _Refusals) -> Source:
    """Refused connections, by reason."""
    return lambda: (Sample(names.REFUSED.name, (reason,), count) for reason, count in refusals.counts.items())


class _Spans(Protocol):
    @property
    def exported(self) -> int: ...

    @property
    def failed(self) -> int: ...


def of_spans(spans: _Spans) -> Source:
    """Finished spans that were delivered or could not be delivered."""
    return lambda: (Sample(names.SPANS.name, ("ok",), spans.exported), Sample(names.SPANS.name, ("failed",), spans.failed))
