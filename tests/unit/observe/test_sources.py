"""The metrics of the parts are in the catalogue, with the labels that it lists."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anabranch.compute.threads import ThreadPool
from anabranch.config.journal import Journal as JournalSettings
from anabranch.document.reload import ReloadState
from anabranch.guard.concurrency import Gate
from anabranch.journal.journal import Journal
from anabranch.journal.queue import Entry, Queue
from anabranch.observe import catalogue, sources
from anabranch.observe.metrics import Metrics, Source
from anabranch.observe.refusals import Refusals
from anabranch.observe.sink import LineSink

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Reloaded:
    state = ReloadState(digest="d", loaded_at=1.0, generation=3, succeeded=2, failed=1, result="failed")


class Traces:
    exported = 7
    failed = 1


def journal_source() -> Source:
    journal = Journal(JournalSettings(), folder=Path("nowhere"))
    journal.queue = Queue(max_records=10, max_bytes=1000)
    journal.queue.add(Entry(b"12345", NOW - timedelta(seconds=3)))
    journal.counters.dropped = 2
    journal.counters.trouble = "the disk is full"
    return sources.of_journal(lambda: journal, lambda: NOW)


def compute_source() -> Source:
    pool = ThreadPool("hooks", workers=4, queue=8, queue_timeout_s=None, stall_s=0.05)
    pool.counters.done = 5
    return sources.of_compute(lambda: {"hooks": pool})


def gate_source() -> Source:
    gate = Gate(limit=5, waiting=2, wait_s=0.1)
    gate.shed = 9
    return sources.of_gates(lambda: {"": gate})


EXPECTED: dict[str, tuple[Callable[[], Source], list[str]]] = {
    "reloads": (
        lambda: sources.of_reloads(Reloaded()),
        ['reloads_total{result="ok"} 2.0', 'reloads_total{result="failed"} 1.0', "reload_failed 1.0", "document_generation 3.0"],
    ),
    "log": (lambda: sources.of_log(LineSink()), ["log_lines_lost_total 0.0"]),
    "refusals": (
        lambda: sources.of_refusals(Refusals(None)),
        [f'refused_connections_total{{reason="{reason}"}} 0.0' for reason in ("malformed_request", "head_too_large", "head_timeout")],
    ),
    "spans": (lambda: sources.of_spans(Traces()), ['spans_total{result="ok"} 7.0', 'spans_total{result="failed"} 1.0']),
    "journal": (
        journal_source,
        ["journal_queue_records 1.0", "journal_queue_bytes 5.0", "journal_lag_seconds 3.0", 'journal_dropped_total{reason="full"} 2.0',
         "journal_writable 0.0"],
    ),
    "compute": (
        compute_source,
        ['compute_workers{pool="hooks"} 4.0', 'compute_jobs_total{pool="hooks",result="ok"} 5.0', 'compute_queued{pool="hooks"} 0.0'],
    ),
    "gates": (gate_source, ['gate_limit{endpoint=""} 5.0', 'gate_shed_total{endpoint=""} 9.0']),
}  # fmt: skip


@pytest.mark.parametrize("part", EXPECTED)
def test_metrics_of_a_part_are_exposed(part: str) -> None:
    make, expected = EXPECTED[part]
    source = make()
    for sample in source():
        assert len(sample.labels) == len(catalogue.ALL[sample.metric].labels), sample
    metrics = Metrics()
    metrics.register(part, source)
    shown = metrics.render("")[0].decode().splitlines()
    for line in expected:
        assert f"anabranch_{line}" in shown


def test_document_without_journal_exposes_no_journal_metrics() -> None:
    assert list(sources.of_journal(lambda: None)()) == []
    assert list(sources.of_shippers(lambda: None)()) == []
