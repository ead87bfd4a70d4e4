"""Runs one client request through its plan.

A step starts as soon as its inputs are available; steps do not run in levels. A step with one predecessor runs in its predecessor's task.
New tasks are created only for real concurrency: of several steps that can start together, one runs in the request's own task, unless a
required step could fail beside it and have to cancel it. All tasks are awaited before the response is sent.

Knows steps, outcomes and policies. Must not know HTTP, the client or how values are shaped.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic, perf_counter

from anabranch.compute.job import ComputePool, Job, JobTimings
from anabranch.compute.offload import Offload
from anabranch.core.tasks import cancel_and_wait
from anabranch.engine.event import AroundStep
from anabranch.engine.outcome import Outcome, Result, status_failure
from anabranch.errors import DependencyFailed, NothingAnswered, SkippedError, StepError
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import ComputePlan, EndpointPlan, HeaderPairs, StepPlan
from anabranch.policy.call import Call, Policy


class Engine:
    """Runs plans. Holds no state of a request.

    `policies`: the policy stack of each upstream, by name. `around`: wraps each step, for tracing. `pools`: the compute pools, by name.
    `offload`: reads and merges bodies that are too large for the event loop; None: the loop does.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        around: AroundStep | None = None,
        pools: Mapping[str, ComputePool] | None = None,
        offload: Offload | None = None,
    ) -> None:
        self._policies = policies
        self._offload = offload
        self._pools = pools or {}
        self._around = around

    async def run(
        self,
        plan: EndpointPlan,
        frame: Frame,
        client_headers: Mapping[bytes, bytes],
        extra: HeaderPairs,
        deadline: float,
        wants_notes: bool = False,
    ) -> Result:
        """Run all steps of `plan` and merge their values.

        `frame`: has the request's parameters and body in their slots. `client_headers`: lower-case names. `extra`: header fields for every
        upstream call. `deadline`: absolute, monotonic time. `wants_notes`: keep the policies' notes.

        Failures of steps are in the result, never raised. Cancellation: every exchange in flight is cancelled and awaited.
        """
        return await _Run(
            self._policies, self._pools, self._offload, self._around, plan, frame, client_headers, extra, deadline, wants_notes
        ).go()


class _Run:
    """The state of one request. `_waiting[i]`: number of unsettled steps that step i needs. `_outcomes[i]`: None until step i is settled."""

    __slots__ = (
        "_around",
        "_began",
        "_body",
        "_client_headers",
        "_crash",
        "_deadline",
        "_extra",
        "_failure",
        "_finished",
        "_frame",
        "_is_large",
        "_is_stale",
        "_loop",
        "_offload",
        "_outcomes",
        "_plan",
        "_policies",
        "_pools",
        "_running",
        "_tasks",
        "_values",
        "_waiting",
        "_wants_notes",
    )  # fmt: skip

    def __init__(
        self,
        policies: Mapping[str, Policy],
        pools: Mapping[str, ComputePool],
        offload: Offload | None,
        around: AroundStep | None,
        plan: EndpointPlan,
        frame: Frame,
        client_headers: Mapping[bytes, bytes],
        extra: HeaderPairs,
        deadline: float,
        wants_notes: bool,
    ) -> None:
        self._policies = policies
        self._pools = pools
        self._offload = offload
        self._is_large = False
        self._body: bytes | None = None
        self._around = around
        self._plan = plan
        self._frame = frame
        self._client_headers = client_headers
        self._extra = extra
        self._deadline = deadline
        self._is_stale = False
        self._wants_notes = wants_notes
        self._outcomes: list[Outcome | None] = [None] * len(plan.steps)
        self._values = list(plan.defaults)
        self._waiting = list(plan.waiting)
        self._tasks: list[asyncio.Task[None]] = []
        self._running = 0
        self._finished: asyncio.Future[None] | None = None
        self._failure: StepError | None = None
        self._crash: Exception | None = None
        # Looked up once per request: before Python 3.12 the look-up costs a system call.
        self._loop = asyncio.get_running_loop()
        self._began = perf_counter()

    async def go(self) -> Result:
        ready = self._plan.ready
        steps = self._plan.steps
        try:
            if len(ready) == 1 or not self._plan.has_required:
                # No other step can require this task to be cancelled, so it runs one step itself.
                for index in ready[:-1]:
                    self._spawn(steps[index])
                await self._chain(steps[ready[-1]], is_own_task=False)
            else:
                for index in ready:
                    self._spawn(steps[index])
            if self._running and self._failure is None:
                self._finished = self._loop.create_future()
                await self._finished
        finally:
            if self._running:
                await cancel_and_wait(self._tasks)
        if self._crash is not None:
            raise self._crash
        if self._is_large and self._offload is not None and self._failure is None:
            try:
                self._body = await self._offload.assemble(self._plan, self._values, self._frame, self._deadline)
            except StepError as error:
                self._failure = error
        return self._result()

    # ------------------------------------------------------------------------------------------------------- tasks

    def _spawn(self, step: StepPlan) -> None:
        self._running += 1
        self._tasks.append(self._loop.create_task(self._task(step)))

    async def _task(self, step: StepPlan) -> None:
        try:
            await self._chain(step, is_own_task=True)
        except Exception as error:  # noqa: BLE001 - a bug of ours: raised again in the request's own task
            self._crash = self._crash or error
            self._finish()
        finally:
            self._running -= 1
            if not self._running:
                self._finish()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _chain(self, step: StepPlan, *, is_own_task: bool) -> None:
        """Run a step, then the steps that it makes ready: the first in this task, each other in a new one."""
        steps = self._plan.steps
        while True:
            outcome = await (self._step(step) if self._around is None else self._around(step, self._step))
            ready = self._settle(step, outcome)
            if self._failure is not None:
                self._finish()
                return
            if not ready:
                return
            if not is_own_task and len(ready) > 1 and self._plan.has_required:
                for index in ready:
                    self._spawn(steps[index])
                return
            for index in ready[1:]:
                self._spawn(steps[index])
            step = steps[ready[0]]

    # ------------------------------------------------------------------------------------------------------- steps

    async def _step(self, step: StepPlan) -> Outcome:
        """Run one step. Its outcome holds a value or a failure."""
        if step.compute is not None:
            return await self._compute(step, step.compute)
        outcome = Outcome(step.name, step.upstream)
        began = perf_counter()
        outcome.started_s = began - self._began
        call: Call | None = None
        try:
            request = step.build(self._frame, self._client_headers, self._extra)
            if self._plan.is_recorded:
                outcome.request = request
            deadline = self._deadline
            if step.timeout_s is not None:
                deadline = min(deadline, monotonic() + step.timeout_s)
            call = Call(
                request,
                deadline=deadline,
                is_idempotent=step.is_idempotent,
                is_required=step.is_required,
                is_coalesced=step.is_coalesced,
                wants_notes=self._wants_notes,
                stale=step.stale,
            )
            answer = await self._policies[step.upstream](call)
            outcome.status = answer.status
            if call.stale_age_s is not None:
                outcome.stale_age_s = call.stale_age_s
                self._is_stale = True
            if self._plan.keeps_answers:
                outcome.answer = answer
            if not 200 <= answer.status < 300:
                raise status_failure(answer)
            if len(answer.body) < step.large_from:
                outcome.raw = step.read(answer.body, self._frame)
            else:
                outcome.raw = await self._read_large(step, answer.body, deadline)
        except StepError as error:
            outcome.failure = error
        outcome.elapsed_s = perf_counter() - began
        if call is not None:
            outcome.attempts = call.attempts
            outcome.queue_s = call.queue_s
            outcome.notes = call.notes
        return outcome

    async def _compute(self, step: StepPlan, compute: ComputePlan) -> Outcome:
        """As `_step`, for a compute step: runs its hook in a pool."""
        outcome = Outcome(step.name, step.upstream)
        began = perf_counter()
        outcome.started_s = began - self._began
        timings = JobTimings()
        try:
            text = compute.build(self._frame)
            deadline = self._deadline
            if step.timeout_s is not None:
                deadline = min(deadline, monotonic() + step.timeout_s)
            job = Job(hook=compute.hook, input=text, deadline=deadline, step=step.name, lane=compute.lane, limit=compute.limit)
            result = await self._pools[compute.pool].run(job, timings)
            if len(result.value) < step.large_from:
                outcome.raw = step.read(result.value, self._frame)
            else:
                outcome.raw = await self._read_large(step, result.value, deadline)
        except StepError as error:
            outcome.failure = error
        outcome.elapsed_s = perf_counter() - began
        outcome.attempts = timings.attempts
        outcome.queue_s = timings.queue_s
        outcome.run_s = timings.run_s
        return outcome

    async def _read_large(self, step: StepPlan, body: bytes, deadline: float) -> bytes:
        """As `step.read`, for a body that may be too large for the event loop."""
        if self._offload is None:
            return step.read(body, self._frame)
        self._is_large = True
        return await self._offload.read(step, body, self._frame, deadline)

    def _settle(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """Store the outcome of a step. Returns the indexes of the steps that can start now."""
        self._outcomes[step.index] = outcome
        has_value = True
        if outcome.raw is not None:
            self._values[step.index] = outcome.raw
        elif step.is_required:
            if self._failure is None:
                self._failure = outcome.failure
            return []
        elif step.fill_default is not None:
            step.fill_default(self._frame)
        else:
            has_value = False
        ready: list[int] = []
        for index in step.dependents:
            self._waiting[index] -= 1
            if self._outcomes[index] is not None:
                continue
            if not has_value:
                ready += self._skip(self._plan.steps[index], step.name)
            elif not self._waiting[index]:
                ready.append(index)
        return ready

    def _skip(self, step: StepPlan, needed: str) -> list[int]:
        """Settle a step without running it, because the step `needed` failed. Returns the indexes of the steps that can start now."""
        outcome = Outcome(step.name, step.upstream)
        outcome.started_s = perf_counter() - self._began
        outcome.failure = DependencyFailed(f"not run: it needs step '{needed}', which failed")
        return self._settle(step, outcome)

    # ------------------------------------------------------------------------------------------------------ result

    def _result(self) -> Result:
        plan = self._plan
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        failure = self._failure
        failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
        if failure is None and failures:
            failure = self._nothing_answered(failures)
        if failure is not None:
            return Result(outcomes=outcomes, status=failure.status, body=None, is_complete=False, failure=failure)
        body = self._body if self._body is not None else plan.response.assemble(self._values, self._frame)
        return Result(outcomes=outcomes, status=plan.response.status, body=body, is_complete=not failures and not self._is_stale)

    def _nothing_answered(self, failures: list[StepError]) -> NothingAnswered | None:
        visible = self._plan.response.visible
        for index in visible:
            outcome = self._outcomes[index]
            if outcome is not None and outcome.raw is not None:
                return None
        if not visible:
            return None
        causes = [failure for failure in failures if not isinstance(failure, SkippedError)]
        return NothingAnswered(is_timeout=bool(causes) and all(failure.is_timeout for failure in causes))
