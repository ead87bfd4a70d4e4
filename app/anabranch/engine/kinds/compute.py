"""A compute: runs a hook in its pool, and reads the result as the answer of a call is read."""

from anabranch.compute.job import Job, JobTimings
from anabranch.engine.operation import Operation, Resources, deadline_of, read_value
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.plan.model import StepPlan


def bind(step: StepPlan, resources: Resources) -> Operation:
    """The operation of a compute step. Raises KeyError when its pool is not open."""
    compute = step.compute
    assert compute is not None
    pool, offload = resources.pools[compute.pool], resources.offload

    async def run(request: ClientRequest, outcome: Outcome) -> bytes:
        timings = JobTimings()
        try:
            arguments = compute.build(request.frame)
            deadline = deadline_of(step, request)
            job = Job(hook=compute.hook, input=arguments, deadline=deadline, step=step.name, lane=compute.lane, limit=compute.limit)
            result = await pool.run(job, timings)
            return await read_value(step, result.value, request, outcome, offload, deadline)
        finally:
            outcome.attempts = timings.attempts
            outcome.queue_s = timings.queue_s
            outcome.run_s = timings.run_s

    return run
