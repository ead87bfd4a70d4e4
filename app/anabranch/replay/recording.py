"""What a recorded request was made of, given again: the answers and failures of its calls, and those failures of its computes that were no
fault of the function.

One record, while its request is run once. Knows nothing of how it is run, and nothing of comparing.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from msgspec import UNSET

from anabranch.core.exchange import Answer, Request, StaleRule
from anabranch.errors import (
    ComputePoolDown,
    ComputePoolFull,
    ComputeTimeout,
    ConnectError,
    DeadlineExceeded,
    StepError,
    UpstreamError,
    UpstreamStatus,
)
from anabranch.journal.record import Record, Step, digested, kept
from anabranch.journal.redact import MASK, Redaction, UnreadableBody
from anabranch.replay.compare import compare
from anabranch.replay.turns import UNKNOWN_CALL, UNKNOWN_FUNCTION, Turns

T = TypeVar("T")

_DETAIL: Final = "as it was recorded"
# What a compute ended with because of the time or the place: the function itself might have done well.
_OF_THE_MOMENT: Final = frozenset({ComputePoolDown.code, ComputePoolFull.code, ComputeTimeout.code, DeadlineExceeded.code})
_WITH_BODIES: Final = frozenset(range(200, 300)) - {204, 205}
_NOTHING: Final = digested(b"")
_MASK: Final = MASK.encode()
# How a mask stands in a target: some places of it encode the asterisk.
_MASKS_IN_TARGETS: Final = (MASK, "%2A%2A%2A")


class Recording:
    """`missing`, `used`: the calls (upstream, method, target) that the record did not have, and the steps that were asked for. `guessed`:
    computes whose functions were given a redacted value, so that their results may differ for that alone. All are filled while the request
    is run. `fault`: why what came out must not be compared."""

    __slots__ = ("_computes", "_is_with_answers", "_redaction", "_steps", "_turns", "fault", "guessed", "missing", "used")

    def __init__(self, record: Record, redaction: Redaction) -> None:
        self._redaction = redaction
        self._steps: dict[tuple[str, str, str], list[Step]] = {}
        self._computes: dict[str, Step] = {}
        for step in record.steps:
            if step.method is not None and step.target is not None:
                self._steps.setdefault((step.upstream, step.method, step.target), []).append(step)
            elif not step.upstream:
                self._computes[step.name] = step
        # A service may well answer with nothing. That it did is only known where something was kept of another answer, or of this one.
        self._is_with_answers = any(step.headers or (step.body or step.value or _NOTHING).is_kept for step in record.steps)
        self._turns = Turns(record)
        self.missing: list[tuple[str, str, str]] = []
        self.used: set[str] = set()
        self.guessed: set[str] = set()
        self.fault: str | None = None

    async def ask(self, upstream: str, request: Request, name: str, stale: StaleRule | None = None) -> tuple[Answer, float | None]:
        """The recorded answer to a call of the step called `name`, or the recorded failure. Takes no time, however long it took then.
        The call of another step will do, if it is the same. With it, its age in seconds when it stood in for a failure, as `stale` allows.

        Raises ConnectError for a call that is not in the record: nothing was sent.
        """
        key = (upstream, request.method, self._redaction.target(request.target))
        step = self._step(self._steps.get(key, []), request.body, name)
        turn = self._turns.of(step, UNKNOWN_CALL)
        with self._turns.running(turn):
            await self._turns.come(turn)
        if step is None:
            if any(mask in request.target for mask in _MASKS_IN_TARGETS) or (request.body is not None and _MASK in request.body):
                self.fault = "a call is made of a value that was redacted (`redact` it in the query or body of that call as well)"
            self.missing.append(key)
            raise ConnectError("this call is not in the journal")
        self.used.add(step.name)
        if step.age_s is not None and (stale is None or step.age_s > stale.max_age_s):
            # It had failed, and what stood in for its answer does not do so any more. How it had failed nobody knows.
            raise failure_of(None)
        return self._answer(step), step.age_s

    async def compute(self, name: str, text: bytes, run: Callable[[], Awaitable[T]]) -> T:
        """What `run`, which calls the function of the step called `name`, brings now; or the recorded failure, when that was one of the time
        or the place. `text`: what the function is given."""
        step = self._computes.get(name)
        turn = self._turns.of(step, UNKNOWN_FUNCTION)
        with self._turns.running(turn):
            if turn == UNKNOWN_FUNCTION:
                # If it was cancelled then, it should not even begin.
                await self._turns.come(turn)
            if step is not None and step.failure in _OF_THE_MOMENT:
                await self._turns.come(turn)
                raise failure_of(step.failure)
            is_redacted = _MASK in text
            try:
                found = await run()
            except StepError:
                if is_redacted and (step is None or step.failure is None):
                    self.fault = "a compute step fails on a value that was redacted (leave its path out of `redact`)"
                await self._turns.come(turn)
                raise
            if is_redacted:
                self.guessed.add(name)
            await self._turns.come(turn)
            return found

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
        body = b""
        if step.body is not None and step.body.is_kept:
            body = step.body.to_bytes()
        elif step.body is not None or not self._is_with_answers:
            if step.failure not in (None, UpstreamStatus.code):
                # What is no JSON is not kept where something has to be redacted; why it failed is.
                raise failure_of(step.failure)
            if step.status in _WITH_BODIES:
                self.fault = "the services' answers were not kept (`bodies: steps` keeps them)"
        headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in step.headers.items()]
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
