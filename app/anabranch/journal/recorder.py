"""Turns finished requests into journal records.

With `durability: relaxed` the response is sent at once and the record follows. With `required` the response is held back until its record
is on disk. Knows records and the journal; must not know how a response is produced or sent.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from typing import Final, Literal

import msgspec
import orjson
from uuid_utils import uuid7

from anabranch.cache.keys import recorded_origin
from anabranch.core.exchange import BodySource
from anabranch.core.principal import Principal
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.request import ClientRequest
from anabranch.errors import StepError, UpstreamStatus
from anabranch.journal.journal import Journal
from anabranch.journal.record import (
    ANSWER_HEADERS,
    NOT_THE_START_OF_JSON,
    VERSION,
    Content,
    Record,
    RecordedRequest,
    Step,
    digested,
    encode,
    encode_into,
    kept,
)
from anabranch.journal.redact import MASK, BodyRedaction, Redaction, UnreadableBody
from anabranch.plan.kinds.call import CallPlan, decoded_calls, fallback_calls
from anabranch.plan.model import EndpointPlan, RecordPlan

NO_HEADERS: Final[dict[str, str]] = {}

RecorderOf = Callable[[EndpointPlan], "Recorder | None"]
"""Returns the recorder of an endpoint when a document is loaded; None for an endpoint without a journal."""


def recorder_of(journal: Journal) -> RecorderOf:
    """Return a factory of recorders that write to `journal`."""
    redaction = Redaction(journal.config.redact)

    def make(plan: EndpointPlan) -> Recorder | None:
        return None if plan.record is None else Recorder(plan, plan.record, journal, redaction)

    return make


class CompletedRequest(msgspec.Struct, frozen=True, gc=False):
    """A finished request, with everything that its record needs.

    `result`: None when the request was rejected or failed unexpectedly. `code`: of the problem that was sent without a result. `status`,
    `response`: as they will be sent. `elapsed_s`: since the request arrived. `ready_s`: Unix time when the response was ready.
    """

    recorder: "Recorder"
    request: ClientRequest
    result: Result | None
    code: str | None
    status: int
    response: bytes
    elapsed_s: float
    ready_s: float

    def write(self, lines: bytearray) -> datetime:
        """Append the record's line, and return the record's time."""
        record = self.recorder.record(self)
        encode_into(record, lines)
        return record.time


class Recorder:
    """Records the responses of one endpoint. Created once with its plan; everything that never changes is computed then.

    `when`: when the caller records a response. `before`: commit before the response is sent. `after`: `put` after it was sent, which may
    wait for room in the queue. `later`: `defer`, which encodes the record in a batch.
    """

    __slots__ = (
        "_bodies", "_decoded", "_encodings", "_has_principal", "_headers", "_journal", "_origins", "_plan", "_redaction", "_sample", "_steps", "when",
    )  # fmt: skip

    def __init__(self, plan: EndpointPlan, rule: RecordPlan, journal: Journal, redaction: Redaction) -> None:
        self._plan = plan
        self._journal = journal
        self._redaction = redaction
        self._has_principal = plan.access is not None and plan.access.fill is not None
        self._bodies = rule.bodies
        self._sample = rule.sample
        is_required = (rule.durability or journal.config.durability) == "required"
        self.when: Literal["before", "after", "later"] = (
            "before" if is_required else "after" if journal.config.on_full == "wait" else "later"
        )
        self._headers = rule.headers
        self._origins = {step.name: caching.origin for step, caching in fallback_calls(plan.steps)}
        self._encodings = {step.name: step.operation.encoding for step in plan.steps if isinstance(step.operation, CallPlan)}
        self._decoded = frozenset(step.name for step in decoded_calls(plan.steps))
        self._steps = {step.name: redaction.for_step(step.name) for step in plan.steps}

    def is_wanted(self) -> bool:
        """Whether the next response is recorded, according to `sample`."""
        return self._sample >= 1.0 or random() < self._sample  # noqa: S311 - not used for security

    # ------------------------------------------------------------------------------------------------------- records

    def record(self, completed: CompletedRequest) -> Record:
        """Build the record of a finished request."""
        result, response = completed.result, completed.response
        problem = None if result is None else result.failure
        bodies = self._bodies
        if result is None and b'"value":' in response:
            response = self._without_values(response)
        return Record(
            v=VERSION,
            id=str(uuid7()),
            time=datetime.fromtimestamp(completed.ready_s, UTC),
            endpoint=self._plan.name,
            plan=self._plan.digest,
            status=completed.status,
            complete=result is not None and result.is_complete,
            elapsed_ms=_ms(completed.elapsed_s),
            request=self._request(completed),
            steps=[]
            if result is None
            else list(map(self._step_without_answer if bodies == "response" else self._step, _runs(result.outcomes))),
            failure=completed.code if problem is None else problem.code,
            body=_content(response, self._redaction.body, is_kept=bodies != "none", is_json=not self._is_passed(problem)),
        )

    def _is_passed(self, failure: StepError | None) -> bool:
        """Whether the response may be a service's own, which need not be JSON."""
        return bool(self._plan.response.passing) and isinstance(failure, UpstreamStatus)

    def _without_values(self, problem: bytes) -> bytes:
        """Redact the parameter values that a problem document quotes, as they are redacted in the query."""
        document = orjson.loads(problem)
        for error in document.get("errors", ()):
            if error.get("in") == "query" and "value" in error and self._redaction.is_secret_parameter(str(error.get("name"))):
                error["value"] = MASK
        return orjson.dumps(document)

    def _request(self, completed: CompletedRequest) -> RecordedRequest:
        redaction = self._redaction
        headers = {}
        for name in self._headers:
            value = completed.request.headers.get(name.encode())
            if value is not None:
                headers[name] = redaction.header(name, value.decode("latin-1"))
        request = completed.request
        return RecordedRequest(
            id=request.id.decode(),
            method=request.method,
            path=request.path.decode("latin-1"),
            query=redaction.query(request.query.decode("latin-1")) if request.query else "",
            headers=headers,
            # Without a result the body may have been rejected, for instance because it is not JSON.
            body=_content(request.body, redaction.body, is_kept=self._bodies == "steps", is_json=completed.result is not None),
            trace="" if request.traceparent is None else request.traceparent[3:35].decode(),
            principal=None if not self._has_principal or request.principal is None else self._principal(request.principal),
        )

    def _principal(self, principal: Principal) -> Content | None:
        return _content(principal.value, self._redaction.body, is_kept=True, is_json=True)

    def _step_without_answer(self, outcome: Outcome) -> Step:
        """A step without bodies, except the digest of the sent one. Fields are passed by position: keywords take twice as long."""
        request, failure = outcome.request, outcome.failure
        method = target = sent = None
        if request is not None:
            method, target = request.method, request.target
            if "?" in target:
                target = self._redaction.target(target)
            if request.body is not None:
                sent = self._sent(request.body, outcome.step, is_kept=False)
        return Step(
            outcome.step,
            outcome.upstream,
            method,
            target,
            sent,
            outcome.status,
            None if failure is None else failure.code,
            outcome.attempts,
            int(outcome.started_s * 1e6) / 1000,
            int(outcome.elapsed_s * 1e6) / 1000,
            int(outcome.queue_s * 1e6) / 1000,
            NO_HEADERS,
            None,
            None,
            outcome.stale_age_s,
            "",
            "" if outcome.stand_in is None else outcome.stand_in.step,
        )

    def _step(self, outcome: Outcome) -> Step:
        request, answer = outcome.request, outcome.answer
        is_kept = self._bodies == "steps"
        redaction = self._steps[outcome.step]
        headers: dict[str, str] = {}
        body = value = sent = None
        if answer is not None:
            if is_kept:
                headers = {
                    name.decode("latin-1"): self._redaction.header(name.decode("latin-1"), text.decode("latin-1"))
                    for name, text in answer.headers
                    if name in ANSWER_HEADERS
                }
            is_json = outcome.raw is not None and outcome.stand_in is None and outcome.step not in self._decoded
            body = _content(answer.body, redaction, is_kept=is_kept, is_json=is_json)
        elif is_kept and request is None and outcome.raw is not None and outcome.stand_in is None:
            value = _content(outcome.raw, redaction, is_kept=True, is_json=True)
        if request is not None and request.body is not None:
            sent = self._sent(request.body, outcome.step, is_kept=is_kept)
        return Step(
            outcome.step,
            outcome.upstream,
            None if request is None else request.method,
            None if request is None else self._redaction.target(request.target),
            sent,
            outcome.status,
            None if outcome.failure is None else outcome.failure.code,
            outcome.attempts,
            _ms(outcome.started_s),
            _ms(outcome.elapsed_s),
            _ms(outcome.queue_s),
            headers,
            body,
            value,
            outcome.stale_age_s,
            self._origin(outcome) if is_kept and self._origins else "",
            "" if outcome.stand_in is None else outcome.stand_in.step,
        )

    def _sent(self, body: bytes | BodySource, step: str, *, is_kept: bool) -> Content | None:
        """The body of a call as a record stores it. Of a multipart body, which may have the client's files in it, only the size."""
        encoding = self._encodings.get(step, "json")
        if encoding == "multipart" or not isinstance(body, bytes):
            return Content(size=len(body))
        return _content(body, self._steps[step], is_kept=is_kept, is_json=encoding == "json")

    def _origin(self, outcome: Outcome) -> str:
        origin = self._origins.get(outcome.step, "")
        return recorded_origin(origin, outcome.request) if origin and outcome.request is not None else origin

    async def commit(self, completed: CompletedRequest) -> None:
        record = self.record(completed)
        await self._journal.commit(encode(record), record.time, completed.request.deadline)

    async def put(self, completed: CompletedRequest) -> None:
        record = self.record(completed)
        await self._journal.put(encode(record), record.time, completed.request.deadline)

    def defer(self, completed: CompletedRequest) -> None:
        size_bytes = len(completed.response) + len(completed.request.body)
        if self._plan.keeps_answers and completed.result is not None:
            size_bytes += sum(len(outcome.answer.body) for outcome in _runs(completed.result.outcomes) if outcome.answer is not None)
        self._journal.defer(completed, size_bytes)


def _runs(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes, and in place of one with several runs these."""
    if not any(outcome.item_count for outcome in outcomes):
        return outcomes
    return [run for outcome in outcomes for run in (outcome.calls or (outcome,))]


def _content(body: bytes, redaction: BodyRedaction, *, is_kept: bool, is_json: bool) -> Content | None:
    """A body as a record stores it; None for an empty one.

    `is_json`: verified to be JSON, apart from what parsers of upstream answers tolerate.
    """
    if not body:
        return None
    if not is_kept and redaction.is_empty:
        return digested(body)
    is_json = is_json and body[:1] not in NOT_THE_START_OF_JSON
    if not redaction.is_empty:
        try:
            body = redaction.apply(body, is_json=is_json)
        except UnreadableBody:
            return digested(body)
    return kept(body, is_json=is_json) if is_kept else digested(body)


def _ms(seconds: float) -> float:
    return int(seconds * 1e6) / 1000
