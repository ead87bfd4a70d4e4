"""Runs one client request through its plan.

A step starts as soon as its inputs are available; steps do not run in levels. A step with one predecessor runs in its predecessor's task.
New tasks are created only for real concurrency: of several steps that can start together, one runs in the request's own task, unless a
required step could fail beside it and have to cancel it. All tasks are awaited before the response is sent.

Knows steps, outcomes and policies. Must not know HTTP, the client or how values are shaped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic, perf_counter

from anabranch.compute.job import ComputePool
from anabranch.compute.offload import Offload
from anabranch.core.tasks import cancel_and_wait
from anabranch.engine import failures, metadata, missing
from anabranch.engine.event import AroundStep
from anabranch.engine.kinds import bind
from anabranch.engine.operation import Operation, Resources
from anabranch.engine.outcome import Outcome, Result, common_failure
from anabranch.engine.request import ClientRequest
from anabranch.engine.select import Selecting
from anabranch.engine.stand_ins import StandIns
from anabranch.errors import DependencyFailed, MissingReference, SkippedError, StepError
from anabranch.jsontext.merge import ABSENT
from anabranch.plan.left_out import LeftOut, NotNeeded
from anabranch.plan.model import EndpointPlan, StepPlan
from anabranch.policy.call import Policy

Run = Callable[[ClientRequest], Awaitable[Result]]
"""Runs all steps of the plan of a request and merges their values. The request's parameters and body are in its frame.

Failures of upstreams and hooks are in the result; they are not raised. Cancellation: everything in flight is cancelled and awaited."""

Bind = Callable[[EndpointPlan], Run]
"""What runs the requests of one endpoint."""


class Engine:
    """Runs plans. Holds nothing of a request. `around`: traces the steps; None: nothing does. The rest as of `Resources`."""

    def __init__(
        self,
        policies: Mapping[str, Policy] | None = None,
        around: AroundStep | None = None,
        pools: Mapping[str, ComputePool] | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.resources = Resources({} if policies is None else policies, {} if pools is None else pools, offload)
        self.around = around

    def bind(self, plan: EndpointPlan) -> Run:
        """What runs the requests of one endpoint. Called once, when the document is loaded; resources may be opened until the first request."""
        runner = Runner(plan, self.resources, self.around)
        return runner.run if plan.select is None else Selecting(plan, plan.select, runner.run, runner.pruned).run


class Runner:
    """Runs the requests of one endpoint. `operations`: of its steps, in document order; bound at the first request."""

    __slots__ = ("around", "offload", "operations", "plan", "resources")

    def __init__(self, plan: EndpointPlan, resources: Resources, around: AroundStep | None) -> None:
        self.plan = plan
        self.resources = resources
        self.around = around
        self.offload = resources.offload
        self.operations: tuple[Operation, ...] = ()

    async def run(self, request: ClientRequest) -> Result:
        if not self.operations:
            self._bind()
        return await _Run(self, request).go()

    def pruned(self, plan: EndpointPlan) -> Run:
        """What runs `plan`, which is this runner's plan pruned to a selection. Steps that read their answers alike share their operation."""
        if not self.operations:
            self._bind()
        runner = Runner(plan, self.resources, self.around)
        runner.operations = tuple(
            operation if step.read is whole.read else bind(step, self.resources)
            for step, whole, operation in zip(plan.steps, self.plan.steps, self.operations, strict=True)
        )
        return runner.run if plan.ready else runner.run_nothing

    async def run_nothing(self, request: ClientRequest) -> Result:
        """The response of a plan in which no step runs."""
        run = _Run(self, request)
        run.show_failures()
        return run.result()

    def _bind(self) -> None:
        self.operations = tuple(bind(step, self.resources) for step in self.plan.steps)


class _Run:
    """The state of one request. `waiting[i]`: number of unsettled steps that step i needs, and one if it has to be asked for. `outcomes[i]`: None until
    step i is settled."""

    __slots__ = (
        "_around", "_began", "_body", "_crash", "_failure", "_finished", "_frame", "_is_large", "_is_partial", "_loop", "_offload", "_operations",
        "_plan", "_request", "_running", "_stand_ins", "_tasks", "_values", "outcomes", "waiting",
    )  # fmt: skip

    def __init__(self, runner: Runner, request: ClientRequest) -> None:
        plan = runner.plan
        self._operations = runner.operations
        self._offload = runner.offload
        self._around = runner.around
        self._plan = plan
        self._request = request
        self._frame = request.frame
        self._is_large = False
        self._is_partial = False
        self._body: bytes | None = None
        self.outcomes: list[Outcome | None] = [None] * len(plan.steps)
        self._values = list(plan.defaults)
        self.waiting = list(plan.waiting)
        self._tasks: list[asyncio.Task[None]] = []
        self._running = 0
        self._finished: asyncio.Future[None] | None = None
        self._stand_ins = StandIns(self, plan.steps, self._frame) if plan.has_stand_ins else None
        self._failure: StepError | None = None
        self._crash: Exception | None = None
        # Looked up once per request: before Python 3.12 the look-up costs a system call.
        self._loop = asyncio.get_running_loop()
        self._began = perf_counter()

    async def go(self) -> Result:
        ready = self._plan.ready
        steps = self._plan.steps
        if self._stand_ins is not None:
            self._request.first_of = self._stand_ins.first_of
        try:
            if len(ready) == 1 or not self._plan.has_required:
                # No other step can require this task to be cancelled, so it runs one step itself.
                for index in ready[:-1]:
                    self.spawn(steps[index])
                await self._chain(steps[ready[-1]], is_own_task=False)
            else:
                for index in ready:
                    self.spawn(steps[index])
            if self._running and self._failure is None:
                self._finished = self._loop.create_future()
                await self._finished
        finally:
            if self._running:
                await cancel_and_wait(self._tasks)
            if self._stand_ins is not None:
                # They refer to each other.
                self._request.first_of = self._stand_ins = None
        if self._crash is not None:
            raise self._crash
        if self._plan.joins and self._failure is None:
            for join in self._plan.joins:
                join.apply(self._values, self._frame)
        self.show_failures()
        if self._is_large and self._offload is not None and self._failure is None:
            try:
                self._body = await self._offload.assemble(self._plan, self._values, self._frame, self._request.deadline)
            except StepError as error:
                self._failure = error
        return self.result()

    # ------------------------------------------------------------------------------------------------------- tasks

    def spawn(self, step: StepPlan) -> None:
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
                    self.spawn(steps[index])
                return
            for index in ready[1:]:
                self.spawn(steps[index])
            step = steps[ready[0]]

    # ------------------------------------------------------------------------------------------------------- steps

    async def _step(self, step: StepPlan) -> Outcome:
        """Run one step. Its outcome holds a value or a failure."""
        outcome = Outcome(step.name, step.upstream)
        began = perf_counter()
        outcome.started_s = began - self._began
        request = self._request
        deadline = request.deadline if step.timeout_s is None else min(request.deadline, monotonic() + step.timeout_s)
        try:
            if step.is_only_stand_in:
                outcome.raw = await self._interruptible(step, outcome, deadline)
            else:
                outcome.raw = await self._operations[step.index](request, outcome, self._frame, deadline)
        except MissingReference as error:
            error.detail = missing.reason(error.detail, step.references, self._value_of)
            outcome.failure = error
        except StepError as error:
            outcome.failure = error
        except LeftOut as left_out:
            outcome.left_out = left_out.state
        outcome.elapsed_s = perf_counter() - began
        return outcome

    def _interruptible(self, step: StepPlan, outcome: Outcome, deadline: float) -> Awaitable[bytes]:
        """Run the operation of a step that may be stopped alone."""
        assert self._stand_ins is not None
        operation = self._operations[step.index]

        async def work() -> bytes:
            return await operation(self._request, outcome, self._frame, deadline)

        return self._stand_ins.interruptible(step.index, work)

    def _value_of(self, root: str) -> bytes | None:
        """The body, or the value of a step; None for parameters, and for a step without a value."""
        if root == "body":
            return self._request.body or None
        return next((outcome.raw for outcome in self.outcomes if outcome is not None and outcome.step == root), None)

    def _settle(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """Store the outcome of a step, or ask for its fallback when it has failed. Returns the indexes of the steps that can start now."""
        if step.fallback >= 0 and outcome.failure is not None and self._stand_ins is not None:
            return self._stand_ins.fall_back(step, outcome)
        return self.store(step, outcome)

    def store(self, step: StepPlan, outcome: Outcome) -> list[int]:
        """Store the outcome of a step. Returns the indexes of the steps that can start now."""
        self.outcomes[step.index] = outcome
        if outcome.is_large:
            self._is_large = True
        answered = outcome if outcome.stand_in is None else outcome.answered
        if answered.stale_age_s is not None or answered.dropped_items or answered.item_failures:
            # What stands in for another step counts there.
            self._is_partial = self._is_partial or not step.is_only_stand_in
        if step.metadata:
            metadata.fill(step, outcome, self._frame)
        has_value = True
        if outcome.raw is not None:
            self._values[step.index] = outcome.raw
        elif step.is_required and not outcome.left_out:
            if self._failure is None:
                self._failure = outcome.failure
            return []
        elif step.fill_default is not None:
            step.fill_default(self._frame)
        else:
            has_value = False
            if outcome.left_out and outcome.left_out != NotNeeded.state:
                self._values[step.index] = ABSENT
        ready: list[int] = []
        for index in step.dependents:
            self.waiting[index] -= 1
            if self.outcomes[index] is not None:
                continue
            dependent = self._plan.steps[index]
            if has_value or step.index in dependent.only_after:
                if not self.waiting[index]:
                    ready += self.unblock(dependent)
            elif outcome.left_out or not dependent.may_be_left_out or not self.waiting[index]:
                ready += self._skip(dependent, outcome)
        if step.has_stand_in_role and self._stand_ins is not None:
            ready += self._stand_ins.settled(step, outcome)
        return ready

    def unblock(self, step: StepPlan) -> list[int]:
        """What can start now that everything that a step needs is settled: the step itself, unless something that it needs has failed."""
        if step.may_be_left_out:
            for need in step.needs:
                outcome = self.outcomes[need]
                if (
                    need not in step.only_after
                    and outcome is not None
                    and outcome.failure is not None
                    and outcome.raw is None
                    and self._plan.steps[need].fill_default is None
                ):
                    return self._skip(step, outcome)
        return [step.index]

    def _skip(self, step: StepPlan, needed: Outcome) -> list[int]:
        """Settle a step without running it, because a step that it needs failed or was left out. Returns the indexes of the steps that can start
        now."""
        outcome = Outcome(step.name, step.upstream)
        outcome.started_s = perf_counter() - self._began
        if needed.left_out:
            outcome.left_out = needed.left_out
        else:
            outcome.failure = DependencyFailed(f"not run: it needs step '{needed.step}', which failed")
            outcome.failure.is_absent = needed.failure is not None and needed.failure.is_absent
        return self._settle(step, outcome)

    # ------------------------------------------------------------------------------------------------------ result

    def show_failures(self) -> None:
        """Put the failed steps behind the values of all, where the response shows them."""
        if self._plan.response.failures is not None:
            self._values.append(failures.shown(self._plan.response.failures, self.outcomes, self._plan.numbers))

    def result(self) -> Result:
        plan = self._plan
        outcomes = [outcome for outcome in self.outcomes if outcome is not None and not outcome.left_out]
        left_out = {outcome.step: outcome.left_out for outcome in self.outcomes if outcome is not None and outcome.left_out}
        failure = self._failure
        failed = [outcome.failure for outcome in outcomes if outcome.failure is not None and not outcome.is_excused]
        failed += [failure for outcome in outcomes if outcome.is_in_vain and not outcome.is_excused for failure in outcome.item_failures]
        if failure is None and failed:
            failure = self._nothing_answered(failed)
        status = plan.response.status
        if failure is None and plan.response.settle is not None:
            try:
                status = plan.response.settle(self._frame)
            except StepError as error:
                failure = error
        if failure is not None:
            return Result(outcomes=outcomes, status=failure.status, body=None, is_complete=False, failure=failure, left_out=left_out)
        body = self._body if self._body is not None else plan.response.assemble(self._values, self._frame)
        return Result(outcomes=outcomes, status=status, body=body, is_complete=not failed and not self._is_partial, left_out=left_out)

    def _nothing_answered(self, failures: list[StepError]) -> StepError | None:
        """The failure of a response that no visible step has a value for; None when one has, or when none of them failed. `failures`: of all steps."""
        shown = [outcome for index in self._plan.response.visible if (outcome := self.outcomes[index]) is not None]
        if any(outcome.raw is not None and not outcome.is_in_vain for outcome in shown) or all(outcome.left_out for outcome in shown):
            return None
        # A step that was skipped has no reason of its own: the steps that it needs have.
        reasons = [failure for failure in failures if not isinstance(failure, SkippedError)]
        own = [outcome.failure for outcome in shown if outcome.failure is not None and not isinstance(outcome.failure, SkippedError)]
        own += [failure for outcome in shown for failure in outcome.item_failures if not isinstance(failure, SkippedError)]
        of_shown = own or reasons
        return common_failure(of_shown, reasons, "every step that this response shows failed")
