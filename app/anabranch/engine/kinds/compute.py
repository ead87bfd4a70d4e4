"""A compute: runs a hook in its pool, and reads the result as the answer of a call is read."""

from anabranch.compute.job import Job, JobTimings
from anabranch.engine.operation import Operation, Resources, expect, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.model import StepPlan


def bind(step: StepPlan, plan: ComputePlan, resources: Resources) -> Operation:
    """The operation of a compute step. Raises KeyError when its pool is not open."""
    pool, offload = resources.pools[plan.pool], resources.offload
    judge = plan.expect

    async def run(request: ClientRequest, outcome: Outcome, frame: Frame, deadline: float) -> bytes:
        timings = JobTimings()
        try:
            arguments = plan.build(frame)
            job = Job(hook=plan.hook, input=arguments, deadline=deadline, step=step.name, lane=plan.lane, limit=plan.limit)
            result = await pool.run(job, timings)
            if judge is not None:
                await expect(judge, result.value, frame, outcome, offload, deadline)
            return await read_value(step, result.value, frame, outcome, offload, deadline)
        finally:
            outcome.attempts = timings.attempts
            outcome.queue_s = timings.queue_s
            outcome.run_s = timings.run_s

    return run
