"""A condition around an operation: when it does not hold, the step is left out."""

from anabranch.engine.operation import Operation
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.left_out import LeftOut
from anabranch.plan.model import StepPlan


def wrap(step: StepPlan, inner: Operation) -> Operation:
    """`inner`, if the step's condition holds; `inner` itself when it has none."""
    condition = step.when
    if condition is None:
        return inner

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        if not condition(frame):
            raise LeftOut
        return await inner(request, outcome, frame, deadline)

    return run
