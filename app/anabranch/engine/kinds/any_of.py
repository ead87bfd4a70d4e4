"""An `any` step: the value of the first good one of several steps, shaped."""

from anabranch.engine.operation import Operation, Resources, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.kinds.any_of import AnyPlan
from anabranch.plan.model import StepPlan


def bind(step: StepPlan, plan: AnyPlan, resources: Resources) -> Operation:
    """The operation of an `any` step."""
    offload = resources.offload

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        assert request.first_of is not None, "the engine sets it for endpoints with such steps"
        body = await request.first_of(step, outcome, deadline)
        return await read_value(step, body, frame, outcome, offload, deadline)

    return run
