"""Compute steps as the engine runs them: outcomes, deadlines, timings, cancellation."""

import asyncio
from time import monotonic
from typing import Any

from anabranch.compute.job import Job, JobResult, JobTimings, PoolCounters
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.run import Engine
from anabranch.errors import ComputeFailed, ComputeTimeout, StepError
from tests.support.documents import plan_of
from tests.support.requests import request_of


class Pool:
    """A pool with scripted results. `jobs`: all jobs received."""

    name = "thread"
    kind: Any = "thread"
    counters = PoolCounters(1)

    def __init__(self, *answers: bytes | StepError) -> None:
        self._answers = list(answers)
        self.jobs: list[Job] = []
        self.cancelled = 0

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        self.jobs.append(job)
        clock.attempts, clock.queue_s, clock.run_s = 1, 0.25, 0.5
        if not self._answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        answer = self._answers.pop(0)
        if isinstance(answer, StepError):
            raise answer
        return JobResult(answer, 0.25, 0.5)

    async def aopen(self) -> None: ...

    async def aclose(self) -> None: ...


async def run(pool: Pool, steps: dict[str, dict[str, Any]], timeout_s: float = 5.0) -> Result:
    plan = plan_of({"steps": {name: {"compute": "m:f", **step} for name, step in steps.items()}})
    return await Engine(pools={"thread": pool}).bind(plan)(request_of(plan, timeout_s=timeout_s))


def outcome(result: Result, step: str) -> Outcome:
    return next(outcome for outcome in result.outcomes if outcome.step == step)


async def test_a_result_is_shaped_and_can_be_referenced() -> None:
    pool = Pool(b'{"n":1.0,"x":2}', b"[5]")
    result = await run(pool, {"f": {"pick": ["n"]}, "g": {"input": {"was": "{f.n}"}}})
    assert result.body == b'{"f":{"n":1.0},"g":[5]}'
    assert [(job.hook, job.input, job.lane) for job in pool.jobs] == [("m:f", b"{}", "get_x.f"), ("m:f", b'{"was":1.0}', "get_x.g")]
    found = outcome(result, "f")
    assert (found.upstream, found.attempts, found.queue_s, found.run_s, found.status) == ("", 1, 0.25, 0.5, None)


async def test_a_failure_keeps_its_timings() -> None:
    result = await run(Pool(ComputeFailed("x")), {"f": {"required": True}})
    assert (result.status, result.failure) == (500, outcome(result, "f").failure)
    assert (outcome(result, "f").queue_s, outcome(result, "f").run_s) == (0.25, 0.5)


async def test_nothing_but_timeouts_is_a_504() -> None:
    assert (await run(Pool(ComputeTimeout("x")), {"f": {}})).status == 504


async def test_a_missing_argument_starts_no_job() -> None:
    pool = Pool(b"{}")
    result = await run(pool, {"f": {}, "g": {"input": {"n": "{f.n}"}, "default": 3}})
    assert result.body == b'{"f":{},"g":3}'
    assert len(pool.jobs) == 1
    assert (outcome(result, "g").attempts, outcome(result, "g").run_s) == (0, None)


async def test_a_step_has_the_shorter_of_its_timeout_and_the_deadline() -> None:
    pool = Pool(b"1", b"2")
    began = monotonic()
    await run(pool, {"f": {"timeout": "1s"}, "g": {"timeout": "60s"}})
    assert sorted(round(job.deadline - began) for job in pool.jobs) == [1, 5]


async def test_a_required_failure_cancels_a_running_function() -> None:
    pool = Pool(ComputeFailed("x"))
    result = await run(pool, {"f": {"required": True}, "g": {}})
    assert result.status == 500
    assert pool.cancelled == 1
