"""Builds jobs for tests of the compute pools, and reduces their results to a value or a failure code."""

from time import monotonic
from typing import Any

import orjson

from anabranch.compute.job import ComputePool, Job, JobResult, JobTimings
from anabranch.errors import StepError

MODULE = "tests.support.hooks"


def job(hook: str, *, timeout_s: float = 20.0, lane: str = "", limit: int | None = None, **arguments: Any) -> Job:
    """A job for a hook of `tests.support.hooks`."""
    return Job(
        hook=f"{MODULE}:{hook}",
        input=orjson.dumps(arguments),
        deadline=monotonic() + timeout_s,
        step=hook,
        lane=lane or hook,
        limit=limit,
    )


async def value_of(pool: ComputePool, job: Job) -> Any:
    return orjson.loads((await pool.run(job, JobTimings())).value)


async def outcome_of(pool: ComputePool, job: Job) -> Any:
    """The value, or the failure code."""
    try:
        result: JobResult = await pool.run(job, JobTimings())
    except StepError as error:
        return error.code
    return orjson.loads(result.value)
