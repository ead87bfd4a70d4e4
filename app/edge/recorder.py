"""Records what is answered: stands between an endpoint and the server, sees the response pass, and writes it down with what it was made of.

With `durability: relaxed` the response passes at once and the record follows; with `required` it is held back until its record is on the
disk. Knows records and the journal; nothing of files, and nothing of how the response came about.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from time import monotonic, time
from typing import Final

import orjson
from starlette.types import Message, Send
from uuid_utils import uuid7

from app.config.journal import JournalRule
from app.edge.problems import of_journal
from app.engine.outcome import Outcome, Result
from app.errors import JournalError
from app.journal.journal import Journal
from app.journal.record import ANSWER_HEADERS, VERSION, Asked, Content, Record, Step, digested, encode, kept
from app.journal.redact import MASK, BodyRedaction, Redaction, UnreadableBody
from app.plan.digest import endpoint_digest
from app.plan.model import EndpointPlan

_NOT_THE_START_OF_JSON: Final = (b"", b"\xef")
NO_HEADERS: Final[dict[str, str]] = {}

RecorderOf = Callable[[EndpointPlan], "Recorder | None"]
"""Gives each endpoint its recorder when a document is loaded; None for one that keeps no records."""


def recorder_of(journal: Journal) -> RecorderOf:
    """The recorders of a document's endpoints, which write to `journal`."""
    redaction = Redaction(journal.config.redact)

    def make(plan: EndpointPlan) -> Recorder | None:
        rule = plan.source.journal
        if rule is False:
            return None
        return Recorder(plan, JournalRule() if rule is True else rule, journal, redaction)

    return make


class Recorder:
    """Records the responses of one endpoint. Made once with its plan: what never changes is looked up here."""

    __slots__ = (
        "_bodies", "_digest", "_headers", "_journal", "_origins", "_plan", "_redaction", "_sample", "_steps", "is_patient", "is_required",
    )  # fmt: skip

    def __init__(self, plan: EndpointPlan, rule: JournalRule, journal: Journal, redaction: Redaction) -> None:
        self._plan = plan
        self._journal = journal
        self._redaction = redaction
        self._bodies = rule.bodies
        self._sample = rule.sample
        self.is_required = (rule.durability or journal.config.durability) == "required"
        self.is_patient = journal.config.on_full == "wait"
        self._headers = tuple(name.lower() for name in rule.headers)
        self._digest = endpoint_digest(plan.source)
        self._origins = {step.name: step.stale.origin for step in plan.steps if step.stale is not None}
        self._steps = {step.name: redaction.for_step(step.name) for step in plan.steps}

    def begin(
        self, send: Send, *, request_id: bytes, method: str, path: bytes, query: bytes, headers: dict[bytes, bytes], deadline: float
    ) -> "Recording | None":
        """The recording of one request; None when the sample leaves it out.

        `path`, `query`: as the client sent them. `headers`: lower-case names. `deadline`: loop time.
        """
        if self._sample < 1.0 and random() >= self._sample:  # noqa: S311 - nobody guards anything with it
            return None
        return Recording(self, send, request_id, method, path, query, headers, deadline)

    # ------------------------------------------------------------------------------------------------------- records

    def line(self, of: "Recording") -> tuple[bytes, datetime]:
        """The record of a response that is ready, as its line, and its time."""
        record = self._record(of)
        return encode(record), record.time

    def _record(self, of: "Recording") -> Record:
        result, response = of.result, of.response
        problem = None if result is None else result.failure
        bodies = self._bodies
        if result is None and b'"value":' in response:
            response = self._without_values(response)
        return Record(
            v=VERSION,
            id=str(uuid7()),
            time=datetime.fromtimestamp(of.ready_s, UTC),
            endpoint=self._plan.name,
            plan=self._digest,
            status=of.answered,
            complete=result is not None and result.is_complete,
            elapsed_ms=_ms(of.elapsed_s),
            request=self._asked(of),
            steps=[] if result is None else list(map(self._brief if bodies == "response" else self._step, result.outcomes)),
            failure=of.code if problem is None else problem.code,
            body=_content(response, self._redaction.body, is_kept=bodies != "none", is_json=True),
        )

    def _without_values(self, problem: bytes) -> bytes:
        """A problem document quotes the parameters that are wrong. What is redacted in the query is redacted here too."""
        document = orjson.loads(problem)
        for error in document.get("errors", ()):
            if error.get("in") == "query" and "value" in error and self._redaction.is_secret_parameter(str(error.get("name"))):
                error["value"] = MASK
        return orjson.dumps(document)

    def _asked(self, of: "Recording") -> Asked:
        redaction = self._redaction
        headers = {}
        for name in self._headers:
            value = of.headers.get(name.encode())
            if value is not None:
                headers[name] = redaction.header(name, value.decode("latin-1"))
        return Asked(
            id=of.request_id.decode(),
            method=of.method,
            path=of.path.decode("latin-1"),
            query=redaction.query(of.query.decode("latin-1")) if of.query else "",
            headers=headers,
            body=_content(of.body, redaction.body, is_kept=self._bodies == "steps", is_json=True),
        )

    def _brief(self, outcome: Outcome) -> Step:
        """A step without any bodies but the digest of what was sent. By position: a call by keywords takes twice as long."""
        request, failure = outcome.request, outcome.failure
        method = target = sent = None
        if request is not None:
            method, target = request.method, request.target
            if "?" in target:
                target = self._redaction.target(target)
            if request.body is not None:
                sent = _content(request.body, self._steps[outcome.step], is_kept=False, is_json=True)
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
            body = _content(answer.body, redaction, is_kept=is_kept, is_json=outcome.raw is not None)
        elif is_kept and request is None and outcome.raw is not None:
            value = _content(outcome.raw, redaction, is_kept=True, is_json=True)
        if request is not None and request.body is not None:
            sent = _content(request.body, redaction, is_kept=is_kept, is_json=True)
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
            self._origins.get(outcome.step, "") if is_kept and self._origins else "",
        )

    async def commit(self, of: "Recording", deadline: float) -> None:
        await self._journal.commit(*self.line(of), deadline)

    async def put(self, of: "Recording", deadline: float) -> None:
        await self._journal.put(*self.line(of), deadline)

    def defer(self, of: "Recording") -> None:
        size_bytes = len(of.response) + len(of.body)
        if of.result is not None:  # it holds the steps' answers, whether the record is to have them or not
            for outcome in of.result.outcomes:
                if outcome.answer is not None:
                    size_bytes += len(outcome.answer.body)
        self._journal.defer(of, size_bytes)


class Recording:
    """One request on its way to its record. `send` stands for the server's.

    Written by the edge as it learns them: `body` (of the request), `result`, `code` (of the problem that was answered without a result).
    `status`, `sent_bytes`: of what was sent in the end; None while nothing was.
    `answered`, `response`: status and body of the response that is recorded. `ready_s`: when it was ready, Unix time. `elapsed_s`: until then.
    """

    __slots__ = (
        "_began", "_deadline", "_recorder", "_send", "_start", "answered", "body", "code", "elapsed_s", "headers", "method", "path", "query",
        "ready_s", "request_id", "response", "result", "sent_bytes", "status",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        send: Send,
        request_id: bytes,
        method: str,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        deadline: float,
    ) -> None:
        self._recorder = recorder
        self._send = send
        self._deadline = deadline
        self._began = monotonic()
        self._start: Message | None = None
        self.request_id = request_id
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.result: Result | None = None
        self.code: str | None = None
        self.status: int | None = None
        self.sent_bytes = 0
        self.answered = 0
        self.response = b""
        self.ready_s = 0.0
        self.elapsed_s = 0.0

    async def send(self, message: Message) -> None:
        """Pass a response on: two messages, its start and its whole body. Cancellation: a record that is owed is written all the same."""
        if self._start is None:
            self._start = message
            return
        start, response = self._start, message
        self.elapsed_s = monotonic() - self._began
        self.ready_s = time()
        self.answered, self.response = start["status"], response["body"]
        recorder = self._recorder
        if recorder.is_required:
            try:
                await recorder.commit(self, self._deadline)
            except JournalError as error:
                start, response = self._refused(error)
        self.status = start["status"]
        self.sent_bytes = len(response["body"])
        try:
            await self._send(start)
            await self._send(response)
        finally:
            if not recorder.is_required:
                if recorder.is_patient:
                    await recorder.put(self, self._deadline)
                else:
                    recorder.defer(self)

    def line(self) -> tuple[bytes, datetime]:
        """Its record's line and time, once its response is ready."""
        return self._recorder.line(self)

    def _refused(self, error: JournalError) -> tuple[Message, Message]:
        self.code = error.code
        problem = of_journal(error, self.request_id.decode())
        length = str(len(problem.body)).encode()
        headers = [*problem.headers, (b"x-request-id", self.request_id), (b"content-length", length)]
        body = b"" if self.method == "HEAD" else problem.body
        return (
            {"type": "http.response.start", "status": problem.status, "headers": headers},
            {"type": "http.response.body", "body": body},
        )


def _content(body: bytes, redaction: BodyRedaction, *, is_kept: bool, is_json: bool) -> Content | None:
    """A body as it stands in a record. None for an empty one. `is_json`: proven, but for what readers of answers forgive."""
    if not body:
        return None
    if not is_kept and redaction.is_empty:
        return digested(body)
    is_json = is_json and body[:1] not in _NOT_THE_START_OF_JSON
    if not redaction.is_empty:
        try:
            body = redaction.apply(body, is_json=is_json)
        except UnreadableBody:
            return digested(body)
    return kept(body, is_json=is_json) if is_kept else digested(body)


def _ms(seconds: float) -> float:
    return int(seconds * 1e6) / 1000
