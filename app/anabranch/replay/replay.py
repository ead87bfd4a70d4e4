"""Replay: compares what a recorded request is answered with now with what it was answered with then, and counts what differs.

How a request is run is not known here: `Replayer.look` is given the new response. One record at a time, in constant memory.
"""

from typing import Final

import msgspec

from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.journal.record import Record, digested, kept
from anabranch.journal.redact import MASK, Redaction, UnreadableBody
from anabranch.replay.compare import NOTHING_IGNORED, Comparison, Ignored, compare
from anabranch.replay.recording import Recording

# Problem documents tell of times and sentences that are new each time; what decides is their type, status, and the failed steps' codes.
_OF_PROBLEMS: Final = Ignored(["detail", "instance", "errors.detail", "errors.elapsed_ms", "errors.attempts"])
_REFUSED_BODIES: Final = (InvalidBody.code, BodyTooLarge.code, BodyTimeout.code, UnsupportedMediaType.code)
_MAX_KINDS: Final = 500
_MASK: Final = MASK.encode()


class CannotReplay(Exception):
    """A record does not hold what its request needs to be run again. The message is a phrase without anything of one record in it."""


class ReplayedResponse(msgspec.Struct, frozen=True):
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
    `guessed`: compute steps that were given a redacted value in records that differ, so that it may be for that alone.
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
    guessed: dict[str, Example] = {}
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

    @property
    def has_only_skipped(self) -> bool:
        """There were records, and none of them could be replayed."""
        return bool(self.endpoints) and not any(report.replayed for report in self.endpoints.values())

    def recording(self, record: Record) -> Recording:
        return Recording(record, self._redaction)

    def skip(self, record: Record, reason: str) -> None:
        """A record that cannot be replayed."""
        skipped = self._report(record).skipped
        skipped[reason] = skipped.get(reason, 0) + 1

    def look(self, record: Record, reply: ReplayedResponse, recording: Recording | None) -> None:
        """Compare `reply` with what was answered then. `recording`: where its answers came from; None when they came from the services."""
        if recording is not None and recording.fault is not None:
            self.skip(record, recording.fault)
            return
        if reply.status != record.status and InvalidBody.code.encode() in reply.body and is_body_redacted(record):
            self.skip(record, "a value in the body of the request was redacted, and is not taken so (leave its path out of `redact`)")
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
            for name in recording.guessed if is_different else ():
                _note(report.guessed, name, record)
        report.different += is_different
        report.same += not is_different
        report.respelled += found.is_respelled and not is_different

    def _report(self, record: Record) -> EndpointReport:
        return self.endpoints.setdefault(record.endpoint, EndpointReport())

    def _compared(self, record: Record, reply: ReplayedResponse) -> Comparison:
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
        raise CannotReplay("the body of the request was not kept (`bodies: steps` keeps it)")
    return content.to_bytes()


def is_body_redacted(record: Record) -> bool:
    """Whether the body that the client sent is not all there."""
    content = record.request.body
    return content is not None and content.is_kept and _MASK in content.to_bytes()


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
