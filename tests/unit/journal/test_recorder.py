"""A pending record reports how much memory it holds."""

from datetime import datetime
from typing import Any, cast

import pytest

from anabranch.config.journal import Journal as Config
from anabranch.config.journal import Redact
from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.core.exchange import Answer
from anabranch.journal.batch import DeferredRecord
from anabranch.journal.journal import Journal
from anabranch.journal.record import encode
from anabranch.journal.recorder import CompletedRequest, Recorder
from anabranch.journal.redact import Redaction
from anabranch.plan.compile import compile_document
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


@pytest.mark.parametrize(("paths", "is_kept"), [([], True), (["**.password"], False)])
def test_an_answer_that_is_not_json_is_kept_only_where_nothing_has_to_be_found_in_it(paths: list[str], is_kept: bool) -> None:
    journal = _Journal()
    journal.config = Config(redact=Redact(paths=paths))
    steps = {"page": {"upstream": "a", "path": "/", "decode": "xml"}}
    document = {
        "version": 1,
        "upstreams": {"a": {"url": "http://127.0.0.1:1"}},
        "endpoints": [{"path": "/x", "steps": steps, "journal": {"bodies": "steps"}}],
    }
    problems = Problems()
    (plan,) = compile_document(Document.model_validate(document), problems).endpoints
    assert plan.record is not None
    recorder = Recorder(plan, plan.record, cast("Journal", journal), Redaction(journal.config.redact))
    outcome = edge_plans.outcome("page")
    outcome.answer = Answer(200, [(b"content-type", b"text/xml")], b"<a><password>hunter2</password></a>")
    outcome.raw = b'{"a":{"password":"hunter2"}}'
    completed = CompletedRequest(recorder, request_of(plan), edge_plans.result(outcome), None, 200, b'{"page":%b}' % outcome.raw, 0.1, 0.0)
    record = recorder.record(completed)
    (step,) = record.steps
    assert step.body is not None
    assert step.body.is_kept is is_kept
    if is_kept:
        assert step.body.to_bytes() == outcome.answer.body
    assert (b"hunter2" in encode(record)) is is_kept
    assert step.headers == {"content-type": "text/xml"}
