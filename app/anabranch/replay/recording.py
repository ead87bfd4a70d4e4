"""Plays back one record: the answers and failures of its calls, and those failures of its compute steps that the function did not cause.

Used for one record, while its request runs once. Must not know how the request is run or compared.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from msgspec import UNSET

from anabranch.cache.rule import Caching
from anabranch.core.exchange import Answer, BodySource, Request
from anabranch.errors import (
    ComputePoolDown,
    ComputePoolFull,
    ComputeTimeout,
    ConnectError,
    DeadlineExceeded,
    StepError,
    UpstreamError,
    UpstreamStatus,
    UpstreamTimeout,
)
from anabranch.journal.record import Record, Step, digested, kept
from anabranch.journal.redact import MASK, Redaction, UnreadableBody
from anabranch.replay.compare import compare
from anabranch.replay.turns import UNKNOWN_CALL, UNKNOWN_FUNCTION, Turns

T = TypeVar("T")

_DETAIL: Final = "recorded failure"
# Failures of a compute step that came from load or time limits. The function itself might have succeeded.
_NOT_OF_THE_FUNCTION: Final = frozenset({ComputePoolDown.code, ComputePoolFull.code, ComputeTimeout.code, DeadlineExceeded.code})
_WITH_BODIES: Final = frozenset(range(200, 300)) - {204, 205}
_NOTHING: Final = digested(b"")
_MASK: Final = MASK.encode()
# How a mask is spelled in a target: some parts of a target encode the asterisk.
_MASKS_IN_TARGETS: Final = (MASK, "%2A%2A%2A")


class Recording:
    """`missing`: calls (upstream, method, target) that are not in the record. `used`: names of the recorded steps that were played back.
    `guessed`: computes whose functions were given a redacted value, so that their results may differ for that reason alone. All three are
    filled while the request runs. `fault`: why the response must not be compared; None when it may be."""

    __slots__ = ("_computes", "_has_answers", "_played", "_redaction", "_steps", "_turns", "fault", "guessed", "missing", "used")

    def __init__(self, record: Record, redaction: Redaction) -> None:
        self._redaction = redaction
        self._steps: dict[tuple[str, str, str], list[Step]] = {}
        self._computes: dict[str, Step] = {}
        for step in record.steps:
            if step.method is not None and step.target is not None:
                self._steps.setdefault((step.upstream, step.method, step.target), []).append(step)
            elif not step.upstream:
                self._computes[step.name] = step
        # A service may answer with an empty body. That is only certain if the record has kept something of this or another answer.
        self._has_answers = any(step.headers or (step.body or step.value or _NOTHING).is_kept for step in record.steps)
        self._turns = Turns(record)
        self._played: set[int] = set()
        self.missing: list[tuple[str, str, str]] = []
        self.used: set[str] = set()
        self.guessed: set[str] = set()
        self.fault: str | None = None

    async def call(self, upstream: str, request: Request, name: str, caching: Caching | None = None) -> tuple[Answer, float | None]:
        """Return the recorded answer to a call of the step `name`, or raise the recorded failure. Takes none of the recorded time.

        Falls back to the same call of another step. The second value is the answer's age in seconds when it replaced a failure, as far as
        `caching` allows that; otherwise None.

        Raises ConnectError for a call that is not in the record: nothing was sent.
        """
        key = (upstream, request.method, self._redaction.target(request.target))
        step = self._step(self._steps.get(key, []), request.body, name)
        turn = self._turns.of(step, UNKNOWN_CALL)
        with self._turns.running(turn):
            await self._turns.wait(turn)
        if step is None:
            if any(mask in request.target for mask in _MASKS_IN_TARGETS) or (isinstance(request.body, bytes) and _MASK in request.body):
                self.fault = "a call is made with a redacted value (`redact` it in the query or body of that call too)"
            self.missing.append(key)
            raise ConnectError("this call is not in the record")
        self.used.add(step.name)
        self._played.add(id(step))
        if step.age_s is not None and not _may_be_used(step.age_s, caching):
            # The call had failed, and the old answer that replaced it is no longer allowed. How it had failed was not recorded.
            raise failure_of(None)
        return self._answer(step), step.age_s

    async def compute(self, name: str, text: bytes, run: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `run`, which calls the function of the step `name`, or raise the recorded failure that the function did not
        cause.

        `text`: the function's input.
        """
        step = self._computes.get(name)
        turn = self._turns.of(step, UNKNOWN_FUNCTION)
        with self._turns.running(turn):
            if turn == UNKNOWN_FUNCTION:
                # The recorded request may have cancelled it: then it must not even begin.
                await self._turns.wait(turn)
            if step is not None and step.failure in _NOT_OF_THE_FUNCTION:
                await self._turns.wait(turn)
                raise failure_of(step.failure)
            is_redacted = _MASK in text
            try:
                found = await run()
            except StepError:
                if is_redacted and (step is None or step.failure is None):
                    self.fault = "a compute step fails on a redacted value (leave its path out of `redact`)"
                await self._turns.wait(turn)
                raise
            if is_redacted:
                self.guessed.add(name)
            await self._turns.wait(turn)
            return found

    def dropped(self) -> Iterator[Step]:
        """Yield the recorded calls that were not made this time."""
        for steps in self._steps.values():
            yield from (step for step in steps if step.name not in self.used)

    def _step(self, candidates: list[Step], body: bytes | BodySource | None, name: str) -> Step | None:
        fitting = [step for step in candidates if self._is_sent(step, body)]
        # A step with `each` may make the same call several times: its calls are begun in the order of the elements.
        return min(
            fitting, key=lambda step: (step.name != name, id(step) in self._played, step.name in self.used, step.started_ms), default=None
        )

    def _is_sent(self, step: Step, body: bytes | BodySource | None) -> bool:
        if step.sent is None or not body:
            return step.sent is None and not body
        if not isinstance(body, bytes) or (not step.sent.is_kept and step.sent.sha256 is UNSET):
            # Only the size is known: the body was multipart, or the answer was not kept either, and that is reported.
            return True
        try:
            redacted = self._redaction.for_step(step.name).apply(body, is_json=False)
        except UnreadableBody:
            redacted = body
        if not step.sent.is_kept:
            return step.sent.sha256 in (digested(redacted).sha256, digested(body).sha256)
        found = compare(step.sent.to_bytes(), kept(redacted).to_bytes())
        return not found.changes

    def _answer(self, step: Step) -> Answer:
        if step.status is None or step.failure == UpstreamTimeout.code:  # an answer and a timeout: `until` held for none
            raise failure_of(step.failure)
        body = b""
        if step.body is not None and step.body.is_kept:
            body = step.body.to_bytes()
        elif step.body is not None or not self._has_answers:
            if step.failure not in (None, UpstreamStatus.code):
                # With redaction, a body that is not JSON is not kept, but the failure that it caused is.
                raise failure_of(step.failure)
            if step.status in _WITH_BODIES:
                self.fault = "the services' answers were not kept (`bodies: steps` keeps them)"
        headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in step.headers.items()]
        return Answer(step.status, headers, body)


def failure_of(code: str | None) -> StepError:
    """Return the failure with this code, to be raised again; a general one for an unknown code."""
    kind = _kinds().get(code or "", UpstreamError)
    return kind(_DETAIL, may_be_processed=True)


def _kinds() -> dict[str, type[StepError]]:
    found: dict[str, type[StepError]] = {}
    pending = [StepError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        # Classes with a constructor of their own are never the outcome of a call, or come with an answer.
        if kind.__init__ is StepError.__init__:
            found.setdefault(kind.code, kind)
    return found


def _may_be_used(age_s: float, caching: Caching | None) -> bool:
    """Whether an answer of this age may replace a failure. Of a cached call the service has said it."""
    if caching is None:
        return False
    return not caching.rule.is_fallback or caching.rule.stale_if_error_s is None or age_s <= caching.rule.stale_if_error_s
