"""Replay: what the services answered a recorded request, given again; and what comes of comparing the new response with the recorded one.

How a request is run is not known here: `Replayer.look` is given the new response. One record at a time, in constant memory.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from app.core.exchange import Answer, Request
from app.errors import BodyTimeout, BodyTooLarge, ConnectError, InvalidBody, StepError, UnsupportedMediaType, UpstreamError, UpstreamStatus
from app.journal.compare import NOTHING_IGNORED, Comparison, Ignored, compare
from app.journal.record import Record, Step, digested, kept
from app.journal.redact import Redaction, UnreadableBody

_DETAIL: Final = "as it was recorded"
# Problem documents tell of times and sentences that are new each time; what decides is their type, status, and the failed steps' codes.
_OF_PROBLEMS: Final = Ignored(["detail", "instance", "errors.detail", "errors.elapsed_ms", "errors.attempts"])
_REFUSED_BODIES: Final = (InvalidBody.code, BodyTooLarge.code, BodyTimeout.code, UnsupportedMediaType.code)
_MAX_KINDS: Final = 500
# While a failure decides the response, everything else is cancelled. Calls that were never answered wait this many turns of the loop for it.
_TURNS: Final = 100


class CannotReplay(Exception):
    """A record does not hold what its request needs to be run again. The message is a phrase without anything of one record in it."""


class Recording:
    """The answers of one record. `missing`, `used`: the calls (upstream, method, target) that it did not have, and the steps that were
    asked for; both are filled while the request is run. `fault`: why what came out must not be compared."""

    __slots__ = ("_is_cut_short", "_order", "_record", "_redaction", "_steps", "fault", "missing", "used")

    def __init__(self, record: Record, redaction: Redaction) -> None:
        self._record = record
        self._redaction = redaction
        self._steps: dict[tuple[str, str, str], list[Step]] = {}
        for step in record.steps:
            if step.method is not None and step.target is not None:
                self._steps.setdefault((step.upstream, step.method, step.target), []).append(step)
        self._is_cut_short = record.failure is not None
        ends = sorted(step.started_ms + step.elapsed_ms for step in record.steps) if self._is_cut_short else []
        self._order = {end: turn for turn, end in enumerate(ends)}
        self.missing: list[tuple[str, str, str]] = []
        self.used: set[str] = set()
        self.fault: str | None = None

    async def ask(self, upstream: str, request: Request, name: str) -> tuple[Answer, float | None]:
        """The recorded answer to a call of the step called `name`, or the recorded failure. Takes no time, however long it took then.
        The call of another step will do, if it is the same. With it, its age in seconds when it stood in for a failure.

        Raises ConnectError for a call that is not in the record: nothing was sent.
        """
        key = (upstream, request.method, self._redaction.target(request.target))
        step = self._step(self._steps.get(key, []), request.body, name)
        if step is None:
            if self._is_cut_short:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            self.missing.append(key)
            raise ConnectError("this call is not in the journal")
        self.used.add(step.name)
        # Where a failure decided the response, it matters which answer came first.
        for _ in range(self._order.get(step.started_ms + step.elapsed_ms, 0)):
            await asyncio.sleep(0)
        return self._answer(step), step.age_s

    def dropped(self) -> Iterator[Step]:
        """The calls that were made then and were not made now."""
        for steps in self._steps.values():
            yield from (step for step in steps if step.name not in self.used)

    def _step(self, candidates: list[Step], body: bytes | None, name: str) -> Step | None:
        fitting = [step for step in candidates if self._is_sent(step, body)]
        return min(fitting, key=lambda step: (step.name != name, step.name in self.used), default=None)

    def _is_sent(self, step: Step, body: bytes | None) -> bool:
        if step.sent is None or not body:
            return step.sent is None and not body
        try:
            redacted = self._redaction.for_step(step.name).apply(body, is_json=False)
        except UnreadableBody:
            redacted = body
        if not step.sent.is_kept:
            if step.sent.sha256 is UNSET:
                # Only its size is known: then the answer was not kept either, and that is what will be said.
                return True
            return step.sent.sha256 in (digested(redacted).sha256, digested(body).sha256)
        found = compare(step.sent.to_bytes(), kept(redacted).to_bytes())
        return not found.changes

    def _answer(self, step: Step) -> Answer:
        if step.status is None:
            raise failure_of(step.failure)
        headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in step.headers.items()]
        body = b""
        if step.body is not None:
            if step.body.is_kept:
                body = step.body.to_bytes()
            elif step.failure not in (None, UpstreamStatus.code):
                # What is no JSON is not kept where something has to be redacted; why it failed is.
                raise failure_of(step.failure)
            elif 200 <= step.status < 300:
                self.fault = "the services' answers were not kept (`bodies: steps` keeps them)"
        return Answer(step.status, headers, body)


def failure_of(code: str | None) -> StepError:
    """The failure that has this code, to be raised again; a general one for a code that is not known (any more)."""
    kind = _kinds().get(code or "", UpstreamError)
    return kind(_DETAIL, may_be_processed=True)


def _kinds() -> dict[str, type[StepError]]:
    found: dict[str, type[StepError]] = {}
    waiting = [StepError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        # Those that are made in another way are never what a call itself ended with, or have an answer.
        if kind.__init__ is StepError.__init__:
            found.setdefault(kind.code, kind)
    return found


# --------------------------------------------------------------------------------------------------------------- the report


class Reply(msgspec.Struct, frozen=True):
    """What a request was answered with now. `endpoint`: that answered; None when there is none with this path and method.
    `is_complete`: None where the answer does not say. `body`: as sent."""

    endpoint: str | None
    status: int
    is_complete: bool | None
    body: bytes


class Example(msgspec.Struct):
    """How often something was seen, and where first. `record`: its id. `before`, `after`: of that one; None where there was nothing.

    `records`: in how many of them; `places`: how often, in arrays, in all of them together."""

    record: str
    before: str | None = None
    after: str | None = None
    records: int = 0
    places: int = 0


class EndpointReport(msgspec.Struct):
    """What became of the recorded requests of one endpoint, by the name it had then.

    `replayed` = `same` + `different`. `respelled`: of the same ones, those that are spelled otherwise. `skipped`: records that could not be
    replayed, by reason. `is_removed`: no endpoint has their path and method any more. `status`, `complete`, `fields` (by path, then by kind),
    `new_calls` (calls that were not recorded, by upstream and method), `dropped_calls` (not made any more): what differs, with an example.
    """

    replayed: int = 0
    same: int = 0
    different: int = 0
    respelled: int = 0
    is_removed: bool = False
    skipped: dict[str, int] = {}
    status: dict[str, Example] = {}
    complete: dict[str, Example] = {}
    fields: dict[str, dict[str, Example]] = {}
    new_calls: dict[str, Example] = {}
    dropped_calls: dict[str, Example] = {}
    more_fields: bool = False


class Replayer:
    """Compares responses with records. `endpoints`: the report so far, by name."""

    def __init__(self, redaction: Redaction, ignored: Ignored = NOTHING_IGNORED) -> None:
        self._redaction = redaction
        self._ignored = ignored
        self.endpoints: dict[str, EndpointReport] = {}

    @property
    def has_difference(self) -> bool:
        return any(report.different or report.is_removed for report in self.endpoints.values())

    def recording(self, record: Record) -> Recording:
        return Recording(record, self._redaction)

    def skip(self, record: Record, reason: str) -> None:
        """A record that cannot be replayed."""
        skipped = self._report(record).skipped
        skipped[reason] = skipped.get(reason, 0) + 1

    def look(self, record: Record, reply: Reply, recording: Recording | None) -> None:
        """Compare `reply` with what was answered then. `recording`: where its answers came from; None when they came from the services."""
        if recording is not None and recording.fault is not None:
            self.skip(record, recording.fault)
            return
        report = self._report(record)
        report.replayed += 1
        if reply.endpoint is None:
            report.is_removed = True
            report.different += 1
            return
        is_different = False
        if reply.status != record.status:
            is_different = True
            _note(report.status, f"{record.status} -> {reply.status}", record, str(record.status), str(reply.status))
        elif record.status < 400 and reply.is_complete is not None and reply.is_complete != record.complete:
            is_different = True
            _note(report.complete, f"{_yes(record.complete)} -> {_yes(reply.is_complete)}", record)
        is_same_kind = (reply.status < 400) == (record.status < 400)
        found = self._compared(record, reply) if is_same_kind else Comparison([])
        for change in found.changes:
            is_different = True
            path = ".".join(change.path)
            kinds = report.fields.get(path)
            if kinds is None:
                if len(report.fields) >= _MAX_KINDS:
                    report.more_fields = True
                    continue
                kinds = report.fields[path] = {}
            _note(kinds, change.kind, record, change.before, change.after, change.count)
        if recording is not None:
            for upstream, method, target in recording.missing:
                is_different = True
                _note(report.new_calls, f"{upstream} {method}", record, None, target)
            for step in recording.dropped():
                _note(report.dropped_calls, f"{step.upstream} {step.method}", record, step.target, None)
        report.different += is_different
        report.same += not is_different
        report.respelled += found.is_respelled and not is_different

    def _report(self, record: Record) -> EndpointReport:
        return self.endpoints.setdefault(record.endpoint, EndpointReport())

    def _compared(self, record: Record, reply: Reply) -> Comparison:
        before, body = record.body, reply.body
        try:
            body = self._redaction.body.apply(body, is_json=False)
        except UnreadableBody:
            return Comparison([])
        if before is not None and not before.is_kept:
            return Comparison([]) if before.sha256 == digested(body).sha256 else compare(b"a body that was not kept", b"another body")
        old = b"" if before is None else before.to_bytes()
        after = kept(body).to_bytes() if body else b""
        if record.status < 400:
            return compare(old, after, self._ignored)
        found = compare(old, after, _OF_PROBLEMS)
        return Comparison([change for change in found.changes if not self._ignored.takes(change.path)])


def request_body(record: Record) -> bytes:
    """The body that the client sent. Raises CannotReplay when it was not kept."""
    content = record.request.body
    if content is None and record.failure in _REFUSED_BODIES:
        raise CannotReplay("the body of the request was refused, and is not in the record")
    if content is None:
        return b""
    if not content.is_kept:
        raise CannotReplay("the body of the request was not kept")
    return content.to_bytes()


def _note(
    examples: dict[str, Example], key: str, record: Record, before: str | None = None, after: str | None = None, places: int = 1
) -> None:
    example = examples.get(key)
    if example is None:
        example = examples[key] = Example(record.id, before, after)
    example.records += 1
    example.places += places


def _yes(value: bool) -> str:
    return "complete" if value else "incomplete"
