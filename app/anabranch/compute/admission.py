"""Which job gets the next free worker: a bounded queue in front of every pool, with a lane for each step that uses it.

Lanes are served by turns, so an endpoint that sends a thousand jobs delays another one's single job by one job, not by a thousand. When
the queue is full, the newest job of the longest lane has to go. A job whose time runs out while it waits is never started.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, TypeVar

from anabranch.compute.job import Job, JobTimings, PoolCounters
from anabranch.errors import ComputePoolFull, DeadlineExceeded, RejectedError

W = TypeVar("W")
E = TypeVar("E", bound=RejectedError)

_LONGEST_RETRY_S: Final = 30.0


class _Waiter(Generic[W]):
    __slots__ = ("future", "job", "timer")

    def __init__(self, job: Job, future: "asyncio.Future[W]") -> None:
        self.job = job
        self.future = future
        self.timer: asyncio.TimerHandle | None = None


class _Lane(Generic[W]):
    """`running`: jobs that have a worker. `limit`: of the newest job that came; None: as many as there are workers. `has_turn`: it stands
    in the line of lanes."""

    __slots__ = ("has_turn", "limit", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiter[W]] = deque()
        self.running = 0
        self.has_turn = False
        self.limit: int | None = None

    @property
    def is_open(self) -> bool:
        return self.limit is None or self.running < self.limit


class Admission(Generic[W]):
    """`W` is a worker, whatever that is. The pool gives each free one with `offer`; `enter` hands it to a job; `leave` ends the job.

    `queue`: jobs that may wait, over all lanes. `queue_timeout_s`: longest wait; None: until the job's own deadline.
    Writes `queued`, `running` and `rejected` of the counters.
    """

    def __init__(
        self, counters: PoolCounters, *, queue: int, queue_timeout_s: float | None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._counters = counters
        self._queue = queue
        self._queue_timeout_s = queue_timeout_s
        self._clock = clock
        self._free: list[W] = []
        self._lanes: dict[str, _Lane[W]] = {}
        self._turns: deque[_Lane[W]] = deque()

    async def enter(self, job: Job, clock: JobTimings) -> W:
        """Wait for a worker. Writes `clock.queue_s`.

        Raises ComputePoolFull and DeadlineExceeded. Cancellation: the place in the queue is given up, and a worker that was given at the
        same moment goes to the next one.
        """
        began = self._clock()
        if job.deadline <= began:
            raise self._refusal(DeadlineExceeded("no time was left to begin"))
        lane = self._lanes.get(job.lane)
        if lane is None:
            lane = self._lanes[job.lane] = _Lane()
        lane.limit = job.limit
        if self._free and lane.is_open and not lane.waiting:
            lane.running += 1
            self._counters.running += 1
            return self._free.pop()
        try:
            return await self._wait(job, lane, began)
        finally:
            clock.queue_s += self._clock() - began
            self._counters.queue_s += self._clock() - began
            self._forget(job.lane)

    def leave(self, lane_name: str) -> None:
        """A job that had a worker is over. The worker itself is offered, or is gone."""
        self._lanes[lane_name].running -= 1
        self._counters.running -= 1
        self._forget(lane_name)
        self._grant()

    def offer(self, worker: W) -> None:
        """A worker is free. The one that was offered last is taken first: it is warm."""
        self._free.append(worker)
        self._grant()

    def withdraw(self, worker: W) -> bool:
        """A free worker is not to be had any more. False when it was not free."""
        try:
            self._free.remove(worker)
        except ValueError:
            return False
        return True

    def refuse_waiting(self, error: Callable[[], RejectedError]) -> None:
        """Turn every job that waits away: there will be no worker for it."""
        for lane in self._lanes.values():
            while lane.waiting:
                self._turn_away(lane.waiting.pop(), error())

    def refusal(self, detail: str) -> ComputePoolFull:
        """The error for a job that is not let in, with a guess at when to come again. Counted."""
        return self._refusal(ComputePoolFull(detail, retry_after_s=self._retry_after_s()))

    # ------------------------------------------------------------------------------------------------------- waiting

    async def _wait(self, job: Job, lane: _Lane[W], began: float) -> W:
        self._make_room(lane)
        waiter: _Waiter[W] = _Waiter(job, asyncio.get_running_loop().create_future())
        wait_s = job.deadline - began
        if self._queue_timeout_s is not None:
            wait_s = min(wait_s, self._queue_timeout_s)
        waiter.timer = asyncio.get_running_loop().call_later(wait_s, self._expire, waiter)
        lane.waiting.append(waiter)
        self._queue_up(lane)
        self._counters.queued += 1
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                lane.running -= 1
                self._counters.running -= 1
                self.offer(waiter.future.result())
            elif waiter in lane.waiting:
                lane.waiting.remove(waiter)
                self._counters.queued -= 1
            raise
        finally:
            waiter.timer.cancel()

    def _make_room(self, lane: _Lane[W]) -> None:
        if self._counters.queued < self._queue:
            return
        longest = max(self._lanes.values(), key=lambda other: len(other.waiting))
        if len(longest.waiting) <= len(lane.waiting) + 1:
            raise self.refusal("no worker is free, and the queue is full" if self._queue else "no worker is free")
        self._turn_away(longest.waiting.pop(), ComputePoolFull("the queue is full", retry_after_s=self._retry_after_s()))

    def _expire(self, waiter: _Waiter[W]) -> None:
        if waiter.future.done():
            return
        self._lanes[waiter.job.lane].waiting.remove(waiter)
        if self._clock() >= waiter.job.deadline - 0.001:
            self._turn_away(waiter, DeadlineExceeded("no worker was free before the time was over"))
        else:
            self._turn_away(waiter, ComputePoolFull("no worker was free within `queue_timeout`", retry_after_s=self._retry_after_s()))

    def _turn_away(self, waiter: _Waiter[W], error: RejectedError) -> None:
        """For a waiter that has been taken out of its lane."""
        self._counters.queued -= 1
        if not waiter.future.done():
            waiter.future.set_exception(self._refusal(error))

    def _refusal(self, error: E) -> E:
        self._counters.rejected += 1
        return error

    # ------------------------------------------------------------------------------------------------------- granting

    def _grant(self) -> None:
        while self._free and (waiter := self._next()) is not None:
            if waiter.future.done():
                continue
            if waiter.job.deadline <= self._clock():
                waiter.future.set_exception(self._refusal(DeadlineExceeded("no worker was free before the time was over")))
                continue
            self._lanes[waiter.job.lane].running += 1
            self._counters.running += 1
            waiter.future.set_result(self._free.pop())

    def _next(self) -> _Waiter[W] | None:
        """The first job of the first lane that may run one more; that lane goes to the end."""
        for _ in range(len(self._turns)):
            lane = self._turns.popleft()
            lane.has_turn = False
            waiter = lane.waiting.popleft() if lane.waiting and lane.is_open else None
            if lane.waiting:
                self._queue_up(lane)
            if waiter is not None:
                self._counters.queued -= 1
                return waiter
        return None

    def _queue_up(self, lane: _Lane[W]) -> None:
        if not lane.has_turn:
            lane.has_turn = True
            self._turns.append(lane)

    def _forget(self, name: str) -> None:
        lane = self._lanes.get(name)
        if lane is not None and not lane.running and not lane.waiting:
            del self._lanes[name]

    def _retry_after_s(self) -> float:
        """How long the queue before the next free place takes, going by the mean run time so far."""
        counters = self._counters
        ended = counters.done + counters.failed + counters.timed_out + counters.lost
        mean_s = counters.run_s / ended if ended else 1.0
        return min(_LONGEST_RETRY_S, max(1.0, mean_s * (counters.queued + 1) / counters.workers))
