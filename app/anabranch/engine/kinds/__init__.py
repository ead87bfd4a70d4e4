"""How each kind of step runs, and what may stand around it."""

from collections.abc import Callable
from typing import Any, Final

from anabranch.engine.kinds import any_of, call, compute, each, join, when
from anabranch.engine.operation import Operation, Resources
from anabranch.plan.kinds.any_of import AnyPlan
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.kinds.join import JoinPlan
from anabranch.plan.model import StepPlan

KINDS: Final[dict[type[Any], Callable[[StepPlan, Any, Resources], Operation]]] = {
    AnyPlan: any_of.bind,
    CallPlan: call.bind,
    ComputePlan: compute.bind,
    JoinPlan: join.bind,
}
WRAPPERS: Final[tuple[Callable[[StepPlan, Operation], Operation], ...]] = (when.wrap,)
"""Innermost first."""


def bind(step: StepPlan, resources: Resources) -> Operation:
    """The operation of a step. Called once, when its document is open."""
    if step.each is not None:
        operation = each.bind(step, step.each, bind(step.each.item, resources), resources.offload)
    else:
        operation = KINDS[type(step.operation)](step, step.operation, resources)
    for wrap in WRAPPERS:
        operation = wrap(step, operation)
    return operation
