"""What a step does when it runs. Bound once to what it needs, when the document is opened; called once for each request."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from anabranch.compute.job import ComputePool
from anabranch.compute.offload import Offload
from anabranch.core.exchange import Answer
from anabranch.engine import metadata
from anabranch.engine.outcome import Outcome, status_failure
from anabranch.engine.request import ClientRequest
from anabranch.errors import UnexpectedAnswer
from anabranch.formats.rules import NotQuickError
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.raw import NULL
from anabranch.plan.decoding import Decoding, content_type, is_empty
from anabranch.plan.judge import JudgePlan
from anabranch.plan.model import StepPlan
from anabranch.policy.call import Call, Policy

Operation = Callable[[ClientRequest, Outcome, Frame, float], Awaitable[bytes]]
"""Takes the request, the outcome, the frame that it reads and fills (the request's own, or a copy of it for one element), and the deadline.

Returns the step's shaped value as JSON text, and fills the frame from it. Raises StepError and LeftOut. What it learns on the way (status, attempts,
times) it writes into the outcome, whatever ends it. Cancellation: everything that it has started is cancelled and awaited."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What operations are bound to. `policies`: the policy stack of each upstream, by name. `pools`: the pools of compute steps, by name.
    `offload`: reads and merges JSON that is too large for the event loop; None: everything is done on the loop."""

    policies: Mapping[str, Policy] = field(default_factory=dict)
    pools: Mapping[str, ComputePool] = field(default_factory=dict)
    offload: Offload | None = None


def note(outcome: Outcome, call: Call) -> None:
    """Write into the outcome what the policies have learned, however the call ended."""
    outcome.attempts = call.attempts
    outcome.queue_s = call.queue_s
    outcome.notes = call.notes


def accept(answer: Answer, call: Call, outcome: Outcome, *, is_kept: bool = False, has_own_credentials: bool = False) -> None:
    """Write the answer to `call` into the outcome. Raises StepError for a status that is not that of a good answer.

    `is_kept`: the outcome keeps the answer, of any status. `has_own_credentials`: see `UpstreamStatus`.
    """
    outcome.status = answer.status
    outcome.headers = answer.headers
    outcome.stale_age_s = call.stale_age_s
    outcome.cache_use = call.cache_use
    if is_kept:
        outcome.answer = answer
    if answer.status not in call.success:
        raise status_failure(answer, has_own_credentials=has_own_credentials)


async def holds(judge: JudgePlan, body: bytes, frame: Frame, outcome: Outcome, offload: Offload | None, deadline: float) -> bool:
    """Whether a condition holds for an answer: its body, and its head in the outcome. Raises ConditionFailed, and StepError for a body that is not JSON."""
    if judge.reads_body:
        if len(body) < judge.large_from or offload is None:
            judge.read(body, frame)
        else:
            await offload.read(judge, body, frame, deadline)
    if judge.metadata:
        metadata.fill(judge, outcome, frame)
    # No other task runs between here and there: the slots may belong to several steps.
    return judge.holds(frame)


async def expect(judge: JudgePlan, body: bytes, frame: Frame, outcome: Outcome, offload: Offload | None, deadline: float) -> None:
    """Raise UnexpectedAnswer unless the condition holds."""
    if not await holds(judge, body, frame, outcome, offload, deadline):
        raise UnexpectedAnswer("`expect` does not hold for the answer", may_be_processed=True)


async def decode(decoding: Decoding, answer: Answer, step: str, offload: Offload | None, deadline: float) -> bytes:
    """The body of an answer as JSON text, made off the loop where that takes too long for it. Raises StepError."""
    if is_empty(answer):
        return NULL
    if offload is None:
        return decoding.read(answer.body, content_type(answer))
    try:
        return decoding.read_quickly(answer.body, content_type(answer))
    except NotQuickError:
        return await offload.decode(decoding, answer, step, deadline)


async def read_value(step: StepPlan, body: bytes, frame: Frame, outcome: Outcome, offload: Offload | None, deadline: float) -> bytes:
    """The step's value out of `body`, read off the loop where it is too large for it. Raises StepError."""
    if len(body) < step.large_from or offload is None:
        return step.read(body, frame)
    outcome.is_large = True
    return await offload.read(step, body, frame, deadline)
