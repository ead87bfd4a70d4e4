"""What the parts report is in the catalogue, with as many labels as that says, and is exposed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anabranch.compute.pools import ComputePools
from anabranch.config.journal import Journal as JournalSettings
from anabranch.config.model import ComputeBackend
from anabranch.core.metric import Sampled
from anabranch.document.reload import Reloader, ReloadState
from anabranch.document.service import Service
from anabranch.guard.concurrency import Gate
from anabranch.journal.journal import Journal
from anabranch.journal.queue import Entry, Queue
from anabranch.observe import catalogue
from anabranch.observe.logs import Logs
from anabranch.observe.metrics import Metrics
from anabranch.observe.refusals import Refusals
from anabranch.plan.model import PoolPlan
from tests.support.edge_plans import document

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def a_reloader() -> Sampled:
    first = Service(document())
    reloader = Reloader(first, prepare=lambda: first, swap=lambda _: pytest.fail("nothing is reloaded"), linger_s=0.0)
    reloader.state = ReloadState(digest="d", loaded_at=1.0, generation=3, succeeded=2, failed=1, result="failed")
    return reloader


def a_journal() -> Sampled:
    journal = Journal(JournalSettings(), folder=Path("nowhere"), now=lambda: NOW)
    journal.queue = Queue(max_records=10, max_bytes=1000)
    journal.queue.add(Entry(b"12345", NOW - timedelta(seconds=3)))
    journal.counters.dropped = 2
    journal.counters.trouble = "the disk is full"
    return journal


def some_pools() -> Sampled:
    pools = ComputePools({"hooks": PoolPlan(name="hooks", backend=ComputeBackend(kind="thread", workers=4), hooks=())})
    pools.pools["hooks"].counters.done = 5
    return pools


def a_gate() -> Sampled:
    gate = Gate(limit=5, waiting=2, wait_s=0.1)
    gate.shed = 9
    return gate


EXPECTED: dict[str, tuple[Callable[[], Sampled], list[str]]] = {
    "reloads": (
        a_reloader,
        ['reloads_total{result="ok"} 2.0', 'reloads_total{result="failed"} 1.0', "reload_failed 1.0", "document_generation 3.0"],
    ),
    "log": (lambda: Logs("json"), ["log_lines_lost_total 0.0"]),
    "refusals": (
        lambda: Refusals(None),
        [f'refused_connections_total{{reason="{reason}"}} 0.0' for reason in ("malformed_request", "head_too_large", "head_timeout")],
    ),
    "journal": (
        a_journal,
        ["journal_queue_records 1.0", "journal_queue_bytes 5.0", "journal_lag_seconds 3.0", 'journal_dropped_total{reason="full"} 2.0',
         "journal_writable 0.0"],
    ),
    "compute": (
        some_pools,
        ['compute_workers{pool="hooks"} 4.0', 'compute_jobs_total{pool="hooks",result="ok"} 5.0', 'compute_queued{pool="hooks"} 0.0'],
    ),
    "gates": (a_gate, ['gate_limit{endpoint=""} 5.0', 'gate_shed_total{endpoint=""} 9.0']),
}  # fmt: skip


@pytest.mark.parametrize("part", EXPECTED)
def test_part_is_shown(part: str) -> None:
    make, expected = EXPECTED[part]
    made = make()
    for sample in made.samples():
        assert catalogue.ALL[sample.metric.name] is sample.metric
        assert len(sample.labels) == len(sample.metric.labels), sample
    metrics = Metrics()
    metrics.watch(made.samples)
    shown = metrics.render("")[0].decode().splitlines()
    for line in expected:
        assert f"anabranch_{line}" in shown


def test_document_without_journal_tells_nothing_of_one() -> None:
    assert not [sample for sample in Service(document()).samples() if "journal" in sample.metric.name]


def test_trouble_of_a_journal_is_a_note() -> None:
    journal = Journal(JournalSettings(), folder=Path("nowhere"))
    assert list(journal.notes()) == []
    journal.counters.trouble = "the disk is full"
    assert list(journal.notes()) == ["the journal cannot be written: the disk is full"]
