"""Whatever happens to callers and to the limit, no slot is lost and none is assigned twice."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anabranch.core.limit import FixedLimit
from anabranch.errors import DeadlineExceeded, QueueFull, QueueTimeout
from anabranch.policy.bulkhead import Bulkhead
from tests.support.clock import FakeTimeLoop

QUEUE_TIMEOUT_S = 3.0


class Caller:
    """One caller: waits for a slot and keeps it until `leave` is set. `ended`: how it ended, "" before."""

    def __init__(self, number: int, *, is_required: bool) -> None:
        self.number = number
        self.is_required = is_required
        self.has_slot = False
        self.ended = ""
        self.leave = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def run(self, bulkhead: Bulkhead, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        try:
            await bulkhead.acquire(now=now, deadline=now + seconds, is_required=self.is_required)
        except (QueueFull, QueueTimeout, DeadlineExceeded) as error:
            self.ended = error.code
            return
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.has_slot = True
        try:
            await self.leave.wait()
        finally:
            self.has_slot = False
            self.ended = "done"
            bulkhead.release()


class BulkheadMachine(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 6), has_timeout=st.booleans())
    def start(self, limit: int, queue: int, has_timeout: bool) -> None:
        self.runner = asyncio.Runner(loop_factory=FakeTimeLoop)
        self.limit = FixedLimit(limit)
        self.queue = queue
        self.bulkhead = Bulkhead(self.limit, queue=queue, queue_timeout_s=QUEUE_TIMEOUT_S if has_timeout else None)
        self.callers: list[Caller] = []
        self.highest = limit

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers if not caller.has_slot and not caller.ended]

    def running(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.has_slot]

    @rule(kinds=st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, 2.0, 5.0])), min_size=1, max_size=4))
    def arrive(self, kinds: list[tuple[bool, float]]) -> None:
        async def step() -> None:
            for is_required, seconds in kinds:
                caller = Caller(len(self.callers), is_required=is_required)
                caller.task = asyncio.create_task(caller.run(self.bulkhead, seconds))
                self.callers.append(caller)
            await settle()

        self.runner.run(step())

    @precondition(lambda self: hasattr(self, "callers") and self.running())
    @rule(leavers=st.integers(0, 2), victims=st.lists(st.integers(0, 9), max_size=2), turns=st.integers(0, 2))
    def leave_and_cancel_in_the_same_moment(self, leavers: int, victims: list[int], turns: int) -> None:
        """The hard case: a waiter is cancelled just before or after it is assigned a slot, before it could run. `victims`: indices of
        callers; the oldest waiters have the smallest."""
        leaving = self.running()[:leavers]
        others = self.waiting() + self.running()[leavers:]
        cancelled = [others[victim] for victim in victims if victim < len(others)]

        async def step() -> None:
            for caller in leaving:
                caller.leave.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            for caller in cancelled:
                assert caller.task is not None
                caller.task.cancel()
            await settle()

        self.runner.run(step())

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        async def step() -> None:
            await asyncio.sleep(seconds)
            await settle()

        self.runner.run(step())

    @rule(limit=st.integers(1, 6))
    def limit_changes(self, limit: int) -> None:
        async def step() -> None:
            self.limit.limit = limit
            self.bulkhead.grant()
            await settle()

        self.highest = max(self.highest, limit)
        self.runner.run(step())

    @invariant()
    def places_add_up(self) -> None:
        if not hasattr(self, "callers"):
            return
        assert self.bulkhead.in_use == len(self.running()) <= self.highest
        assert self.bulkhead.queued == len(self.waiting()) <= self.queue
        # No caller waits while a slot is free.
        assert not self.waiting() or self.bulkhead.in_use >= self.limit.limit

    @invariant()
    def nobody_is_overtaken_by_its_own_kind(self) -> None:
        if not hasattr(self, "callers"):
            return
        for is_required in (True, False):
            waiting = [caller.number for caller in self.waiting() if caller.is_required == is_required]
            running = [caller.number for caller in self.running() if caller.is_required == is_required]
            assert not waiting or not running or max(running) < min(waiting)

    @invariant()
    def no_required_call_is_rejected_while_an_optional_one_waits(self) -> None:
        if hasattr(self, "callers") and self.callers and self.callers[-1].ended == "queue_full" and self.callers[-1].is_required:
            assert all(caller.is_required for caller in self.waiting())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return

        async def finish() -> None:
            while running := self.running():
                for caller in running:
                    caller.leave.set()
                await settle()
            await asyncio.gather(*(caller.task for caller in self.callers if caller.task is not None), return_exceptions=True)
            assert (self.bulkhead.in_use, self.bulkhead.queued) == (0, 0)
            assert len(asyncio.all_tasks()) == 1

        with self.runner:
            self.runner.run(finish())


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


TestBulkhead = BulkheadMachine.TestCase
TestBulkhead.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
