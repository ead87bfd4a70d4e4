"""A call: builds a request, sends it through the policies of its upstream, and reads the answer."""

from anabranch.core.forwarding import carrier_of
from anabranch.engine.operation import Operation, Resources, accept, decode, note, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.model import StepPlan
from anabranch.policy.call import Call


def bind(step: StepPlan, plan: CallPlan, resources: Resources) -> Operation:
    """The operation of a call step. Raises KeyError when its upstream is not open."""
    policy, offload = resources.policies[plan.upstream], resources.offload
    decoding = plan.decoding
    plain_below = step.large_from if decoding is None else 0
    carried = carrier_of(plan.forwarded)

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
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
            stale=plan.stale,
        )
        try:
            answer = await policy(call)
        finally:
            note(outcome, call)
        accept(answer, call, outcome, is_kept=endpoint.keeps_answers, has_own_credentials=plan.has_own_credentials)
        body = answer.body
        if len(body) < plain_below:
            return step.read(body, frame)
        if decoding is not None:
            body = await decode(decoding, answer, step.name, offload, deadline)
        return await read_value(step, body, frame, outcome, offload, deadline)

    return run
