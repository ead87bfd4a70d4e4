"""How each kind of step is compiled."""

from collections.abc import Callable
from typing import Any, Final

from anabranch.config import model as config
from anabranch.plan.kinds import any_of, call, compute, join
from anabranch.plan.operation import OperationPlan, StepContext

KINDS: Final[dict[type[config.Step], Callable[[Any, StepContext], OperationPlan | None]]] = {
    config.FirstStep: any_of.compile,
    config.CallStep: call.compile,
    config.ComputeStep: compute.compile,
    config.JoinStep: join.compile,
}


def compile_operation(step: config.Step, context: StepContext) -> OperationPlan | None:
    """What a step does; None when there is a problem, which is reported."""
    return KINDS[type(step)](step, context)
