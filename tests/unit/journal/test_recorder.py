"""A pending record reports how much memory it holds."""

from datetime import datetime
from typing import Any, cast

import pytest

from anabranch.config.journal import Journal as Config
from anabranch.core.exchange import Answer
from anabranch.journal.batch import DeferredRecord
from anabranch.journal.journal import Journal
from anabranch.journal.recorder import CompletedRequest, Recorder
from anabranch.journal.redact import Redaction
from anabranch.plan.model import RecordPlan
from tests.support import edge_plans
from tests.support.requests import request_of


class _Journal:
    """Collects deferred records with their sizes."""

    def __init__(self) -> None:
        self.config = Config()
        self.deferred: list[tuple[DeferredRecord, int]] = []

    def defer(self, record: DeferredRecord, size_bytes: int) -> None:
        self.deferred.append((record, size_bytes))


@pytest.mark.parametrize("bodies", ["none", "steps"])
def test_upstream_answers_kept_until_the_record_is_built_count_in_its_size(bodies: Any) -> None:
    journal = _Journal()
    rule = RecordPlan(bodies=bodies)
    plan = edge_plans.endpoint(name="briefing", record=rule)
    recorder = Recorder(plan, rule, cast("Journal", journal), Redaction(journal.config.redact))
    outcome = edge_plans.outcome("flight")
    outcome.answer = Answer(200, [], b"x" * 100_000)
    recorder.defer(CompletedRequest(recorder, request_of(plan), edge_plans.result(outcome), None, 200, b"{}", 0.1, 0.0))
    ((deferred, size_bytes),) = journal.deferred
    assert size_bytes == 100_002
    lines = bytearray()
    assert isinstance(deferred.write(lines), datetime)
    assert lines.endswith(b"\n")
