"""One client request on its way through a plan.

A step starts the moment its inputs are there; nothing waits for a level to be complete. A step that follows from one other goes on in that
one's task, and the last of several that can start at once runs in the request's own task where nothing can cancel it from beside: a task
is made only where two things really run at the same time. Every task is awaited before the request ends, whatever ends it.

Knows steps, outcomes and the policies to call. Knows nothing of HTTP, of the client or of how a value is shaped.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic, perf_counter

from anabranch.compute.job import ComputePool, Job, JobTimings
from anabranch.compute.offload import Offload
from anabranch.engine.event import AroundStep
from anabranch.engine.outcome import Outcome, Result, refused
from anabranch.errors import DependencyFailed, NothingAnswered, SkippedError, StepError
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import ComputePlan, EndpointPlan, HeaderPairs, StepPlan
from anabranch.policy.call import Call, Policy


class Engine:
    """Runs plans. `policies`: the policy stack of each upstream, by its name. `around`: what traces the steps. `pools`: where compute steps
    run, by name. `offload`: reads and merges what is too large for the loop; None: the loop does. Holds nothing of a request."""

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
        """Run all steps of `plan` and merge what they bring.

        `frame`: the request's parameters and body are in their slots. `client_headers`: lower-case names. `extra`: fields that every
        upstream call carries. `deadline`: absolute, monotonic time. `is_traced`: keep the policies' notes.

        Failures of services are in the result, never raised. Cancellation: every exchange under way is cancelled and awaited.
        """
        return await _Run(
            self._policies, self._pools, self._offload, self._around, plan, frame, client_headers, extra, deadline, wants_notes
        ).go()


class _Run:
    """The state of one request. `waiting[i]`: how many steps step i still waits for; `is_settled[i]`: it has an outcome."""

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
        # Once a request: before Python 3.12 asking for the loop costs a system call.
        self._loop = asyncio.get_running_loop()
        self._began = perf_counter()

    async def go(self) -> Result:
        ready = self._plan.ready
        steps = self._plan.steps
        try:
            if len(ready) == 1 or not self._plan.has_required:
                # Nothing that runs beside this task could want to stop it: it does one step's work itself.
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
                await self._cancel_tasks()
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
        except Exception as error:  # noqa: BLE001 - a fault of ours: the request's own task raises it
            self._crash = self._crash or error
            self._finish()
        finally:
            self._running -= 1
            if not self._running:
                self._finish()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    async def _cancel_tasks(self) -> None:
        """Cancel what still runs and wait until it has closed what it had open. Nothing outlives its request."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _chain(self, step: StepPlan, *, is_own_task: bool) -> None:
        """Run a step and whatever becomes ready by it: one of those here, the others beside it."""
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
        """Run one step. Its outcome holds a value or the reason why there is none."""
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
                raise refused(answer)
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
        """Run one compute step: as `_step`, by a pool."""
        outcome = Outcome(step.name, step.upstream)
        began = perf_counter()
        outcome.started_s = began - self._began
        clock = JobTimings()
        try:
            text = compute.build(self._frame)
            deadline = self._deadline
            if step.timeout_s is not None:
                deadline = min(deadline, monotonic() + step.timeout_s)
            job = Job(hook=compute.hook, input=text, deadline=deadline, step=step.name, lane=compute.lane, limit=compute.limit)
            result = await self._pools[compute.pool].run(job, clock)
            if len(result.value) < step.large_from:
                outcome.raw = step.read(result.value, self._frame)
            else:
                outcome.raw = await self._read_large(step, result.value, deadline)
        except StepError as error:
            outcome.failure = error
        outcome.elapsed_s = perf_counter() - began
        outcome.attempts = clock.attempts
        outcome.queue_s = clock.queue_s
        outcome.run_s = clock.run_s
        return outcome

    async def _read_large(self, step: StepPlan, body: bytes, deadline: float) -> bytes:
        """As `step.read`, for a body that may be too large for the loop."""
        if self._offload is None:
            return step.read(body, self._frame)
        self._is_large = True
        return await self._offload.read(step, body, self._frame, deadline)

    def _settle(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """Write an outcome down. Returns the steps that can start now."""
        self._outcomes[step.index] = outcome
        is_there = True
        if outcome.raw is not None:
            self._values[step.index] = outcome.raw
        elif step.is_required:
            if self._failure is None:
                self._failure = outcome.failure
            return []
        elif step.fill_default is not None:
            step.fill_default(self._frame)
        else:
            is_there = False
        ready: list[int] = []
        for index in step.dependents:
            self._waiting[index] -= 1
            if self._outcomes[index] is not None:
                continue
            if not is_there:
                ready += self._skip(self._plan.steps[index], step.name)
            elif not self._waiting[index]:
                ready.append(index)
        return ready

    def _skip(self, step: StepPlan, needed: str) -> list[int]:
        """A step whose need failed never runs: it is settled the moment that is known."""
        outcome = Outcome(step.name, step.upstream)
        outcome.started_s = perf_counter() - self._began
        outcome.failure = DependencyFailed(f"the step {needed}, which it needs, failed")
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
