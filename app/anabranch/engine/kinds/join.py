"""A join of two lists that are there already: no call, no function."""

from anabranch.engine.operation import Operation, Resources, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.join import join
from anabranch.jsontext.order import REBUILD_FROM
from anabranch.plan.kinds.join import JoinPlan
from anabranch.plan.model import StepPlan


def bind(step: StepPlan, plan: JoinPlan, resources: Resources) -> Operation:
    """The operation of a join."""
    offload = resources.offload

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        left, right = plan.left(frame), plan.right(frame)
        if len(left) + len(right) < REBUILD_FROM or offload is None:
            joined = join(left, right, plan.rule)
        else:
            joined = await offload.join(plan.rule, plan.order, left, right, step.name, deadline)
        return await read_value(step, joined, frame, outcome, offload, deadline)

    return run
