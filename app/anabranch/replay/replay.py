"""Compares the response to a replayed request with the recorded one, and counts the differences.

Does not run requests itself: `Replayer.compare` is given the new response. One record at a time, in constant memory.
"""

from typing import Final

import msgspec

from anabranch.core.upload import FILE_KEYS
from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.journal.record import Content, Record, digested, kept
from anabranch.journal.redact import MASK, Redaction, UnreadableBody
from anabranch.jsontext.path import path_text
from anabranch.jsontext.raw import items, members
from anabranch.replay.compare import NOTHING_IGNORED, Comparison, Ignored, compare
from anabranch.replay.recording import Recording

# Members of problem documents whose times and sentences vary, also from one version to the next. Type, status and the codes of failed steps are compared.
_VARYING_IN_PROBLEMS: Final = Ignored(["title", "detail", "instance", "errors.detail", "errors.elapsed_ms", "errors.attempts"])
_REJECTED_BODIES: Final = (InvalidBody.code, BodyTooLarge.code, BodyTimeout.code, UnsupportedMediaType.code)
_MAX_FIELDS: Final = 500
_MASK: Final = MASK.encode()


class CannotReplay(Exception):
    """A record lacks something that is needed to run its request again. The message has no details of one record, so that reasons can be
    counted."""


class ReplayedResponse(msgspec.Struct, frozen=True):
    """The response to a replayed request. `endpoint`: the one that answered; None when no endpoint has this path and method. `is_complete`:
    None when the response does not say. `body`: as sent."""

    endpoint: str | None
    status: int
    is_complete: bool | None
    body: bytes


class Example(msgspec.Struct):
    """How often a difference was seen, and where first. `record`: id of the first one. `before`, `after`: its values, None when missing.

    `records`: number of records with it. `places`: number of occurrences, in arrays, over all these records."""

    record: str
    before: str | None = None
    after: str | None = None
    records: int = 0
    places: int = 0


class EndpointReport(msgspec.Struct):
    """The result for the recorded requests of one endpoint, under the name it had then.

    `replayed` = `same` + `different`. `respelled`: same ones that are spelled differently. `skipped`: records that could not be replayed,
    by reason. `is_removed`: no endpoint has their path and method any more. The differences, each with an example: `status`, `complete`,
    `fields` (by path, then by kind), `new_calls` (calls that were not recorded, by upstream and method), `dropped_calls` (no longer made).
    `guessed`: compute steps that were given a redacted value in a record that differs; that alone may be the reason.
    `more_fields`: not all differing fields are listed.
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
    """Compares responses with records. `endpoints`: the report so far, by endpoint name."""

    def __init__(self, redaction: Redaction, ignored: Ignored = NOTHING_IGNORED) -> None:
        self._redaction = redaction
        self._ignored = ignored
        self.endpoints: dict[str, EndpointReport] = {}

    @property
    def has_difference(self) -> bool:
        return any(report.different or report.is_removed for report in self.endpoints.values())

    @property
    def has_only_skipped(self) -> bool:
        """There were records, but none of them could be replayed."""
        return bool(self.endpoints) and not any(report.replayed for report in self.endpoints.values())

    def recording(self, record: Record) -> Recording:
        return Recording(record, self._redaction)

    def skip(self, record: Record, reason: str) -> None:
        """Count a record that cannot be replayed."""
        skipped = self._report(record).skipped
        skipped[reason] = skipped.get(reason, 0) + 1

    def compare(self, record: Record, response: ReplayedResponse, recording: Recording | None) -> None:
        """Compare `response` with the recorded one. `recording`: where its answers came from; None for real services."""
        if recording is not None and recording.fault is not None:
            self.skip(record, recording.fault)
            return
        if response.status != record.status and InvalidBody.code.encode() in response.body and is_body_redacted(record):
            self.skip(record, "the request body has a redacted value, and `***` is not valid there (leave its path out of `redact`)")
            return
        report = self._report(record)
        report.replayed += 1
        if response.endpoint is None:
            report.is_removed = True
            report.different += 1
            return
        is_different = False
        if response.status != record.status:
            is_different = True
            _note(report.status, f"{record.status} -> {response.status}", record, str(record.status), str(response.status))
        elif record.status < 400 and response.is_complete is not None and response.is_complete != record.complete:
            is_different = True
            _note(report.complete, f"{_completeness(record.complete)} -> {_completeness(response.is_complete)}", record)
        is_same_kind = (response.status < 400) == (record.status < 400)
        found = self._compared(record, response) if is_same_kind else Comparison([])
        for change in found.changes:
            is_different = True
            path = path_text(change.path)
            kinds = report.fields.get(path)
            if kinds is None:
                if len(report.fields) >= _MAX_FIELDS:
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

    def _compared(self, record: Record, response: ReplayedResponse) -> Comparison:
        before, body = record.body, response.body
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
        found = compare(old, after, _VARYING_IN_PROBLEMS)
        return Comparison([change for change in found.changes if not self._ignored.matches(change.path)])


def request_body(record: Record) -> bytes:
    """Return the body that the client sent. Raises CannotReplay when it was not kept."""
    content = record.request.body
    if (content is None or not content.is_kept) and record.failure in _REJECTED_BODIES:
        raise CannotReplay("the request body was rejected, and is not in the record")
    if content is None:
        return b""
    if not content.is_kept:
        raise CannotReplay("the request body was not kept (`bodies: steps` keeps it)")
    return content.to_bytes()


def is_body_redacted(record: Record) -> bool:
    """Whether part of the body that the client sent was redacted."""
    return _is_redacted(record.request.body)


def is_client_redacted(record: Record) -> bool:
    """Whether part of what is known of the client was redacted."""
    return _is_redacted(record.request.principal)


def _is_redacted(content: Content | None) -> bool:
    return content is not None and content.is_kept and _MASK in content.to_bytes()


def has_files(record: Record) -> bool:
    """Whether the body that the client sent had files. The record has an object with `FILE_KEYS` in place of each."""
    content = record.request.body
    fields = members(content.to_bytes()) if content is not None and content.is_kept else None
    values = [value for field in (fields or {}).values() for value in (items(field) or [field])]
    return any((members(value) or {}).keys() == FILE_KEYS for value in values)


def _note(
    examples: dict[str, Example], key: str, record: Record, before: str | None = None, after: str | None = None, places: int = 1
) -> None:
    example = examples.get(key)
    if example is None:
        example = examples[key] = Example(record.id, before, after)
    example.records += 1
    example.places += places


def _completeness(value: bool) -> str:
    return "complete" if value else "incomplete"
