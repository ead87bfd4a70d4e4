"""How each kind of step runs."""

from anabranch.engine.kinds import call, compute
from anabranch.engine.operation import Operation, Resources
from anabranch.plan.model import StepPlan


def bind(step: StepPlan, resources: Resources) -> Operation:
    """The operation of a step. Called once, when its document is open."""
    return call.bind(step, resources) if step.compute is None else compute.bind(step, resources)
