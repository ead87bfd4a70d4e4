"""A call: builds a request, sends it through the policies of its upstream, and reads the answer."""

import asyncio
from time import monotonic

from anabranch.core.exchange import Answer
from anabranch.core.forwarding import carrier_of
from anabranch.core.principal import Principal
from anabranch.engine.operation import Operation, Resources, accept, decode, expect, holds, note, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.errors import StepError, UpstreamTimeout
from anabranch.jsontext.frame import Frame
from anabranch.plan.judge import JudgePlan
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.model import StepPlan
from anabranch.policy.call import Call


def bind(step: StepPlan, plan: CallPlan, resources: Resources) -> Operation:
    """The operation of a call step. Raises KeyError when its upstream is not open."""
    policy, offload = resources.policies[plan.upstream], resources.offload
    condition, is_judged_inside = plan.expect, plan.is_judged_inside
    decoding = plan.decoding
    carried = carrier_of(plan.forwarded)
    caching_of = None if plan.caching is None else plan.caching.of

    async def exchange(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        """One answer that is good, and what `expect` demands: its body as JSON text."""
        sent = plan.build(frame, request.headers, carried(request.propagated, request.arrival), request.query)
        endpoint = request.plan
        if endpoint.is_recorded:
            outcome.request = sent
        call = Call(
            sent,
            deadline=deadline,
            is_idempotent=plan.is_idempotent,
            is_required=step.is_required,
            is_coalesced=plan.is_coalesced,
            wants_notes=request.wants_notes,
            caching=None if caching_of is None else caching_of(frame, request.headers),
            success=plan.success,
            principal=principal_of(request, plan),
        )
        if is_judged_inside:

            async def judge(answer: Answer) -> None:
                await judged(answer, call, request, outcome, frame)

            call.judge = judge
        try:
            answer = await policy(call)
        finally:
            note(outcome, call)
        if condition is not None and (not is_judged_inside or call.is_stored):
            try:
                return await judged(answer, call, request, outcome, frame)
            except StepError:
                if call.refuse is not None and answer.status in call.success:
                    call.refuse()
                raise
        accept(answer, call, outcome, is_kept=endpoint.keeps_answers, has_own_credentials=plan.has_own_credentials)
        return answer.body if decoding is None else await decode(decoding, answer, step.name, offload, deadline)

    async def judged(answer: Answer, call: Call, request: ClientRequest, outcome: Outcome, frame: Frame) -> bytes:
        """The body as JSON text. Raises StepError for an answer that is not good, or that `expect` refuses."""
        assert condition is not None
        accept(answer, call, outcome, is_kept=request.plan.keeps_answers, has_own_credentials=plan.has_own_credentials)
        body = answer.body if decoding is None else await decode(decoding, answer, step.name, offload, call.deadline)
        await expect(condition, body, frame, outcome, offload, call.deadline)
        return body

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        body = await exchange(request, outcome, frame, deadline)
        if len(body) < step.large_from:
            return step.read(body, frame)
        return await read_value(step, body, frame, outcome, offload, deadline)

    async def repeat(until: JudgePlan, request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        """The same, again and again until the answer is the awaited one."""
        total = Total()
        while True:
            try:
                body = await exchange(request, outcome, frame, deadline)
                if await holds(until, body, frame, outcome, offload, deadline):
                    return await read_value(step, body, frame, outcome, offload, deadline)
            except StepError as error:
                if not error.is_timeout or not total.answers:
                    raise
                raise not_in_time(total.answers) from None
            finally:
                total.add(outcome)
            if monotonic() + plan.every_s >= deadline:
                raise not_in_time(total.answers)
            await asyncio.sleep(plan.every_s)

    if plan.until is None:
        return run
    condition_of_end = plan.until
    return lambda request, outcome, frame, deadline: repeat(condition_of_end, request, outcome, frame, deadline)


def principal_of(request: ClientRequest, plan: CallPlan) -> Principal | None:
    """For whom a call is made, as what is shared must tell them apart."""
    principal = request.principal
    return principal.exact if plan.tells_client and principal is not None else principal


class Total:
    """What several calls of one step have cost together. `answers`: how many came before."""

    __slots__ = ("_attempts", "_notes", "_queue_s", "answers")

    def __init__(self) -> None:
        self.answers = 0
        self._attempts = 0
        self._queue_s = 0.0
        self._notes: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Add the call that the outcome is of, and write the sum into it."""
        self.answers += 1
        self._attempts += outcome.attempts
        self._queue_s += outcome.queue_s
        outcome.attempts, outcome.queue_s = self._attempts, self._queue_s
        if outcome.notes is not None:
            self._notes += outcome.notes
            outcome.notes = self._notes


def not_in_time(answers: int) -> UpstreamTimeout:
    return UpstreamTimeout(f"`until` held for none of {answers} answers before the timeout", may_be_processed=True)
