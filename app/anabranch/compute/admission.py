"""The bounded queue in front of every pool, with a lane for each step that uses the pool.

Lanes are served in turn, so a step that sends a thousand jobs delays another step's single job by one job, not by a thousand. When the
queue is full, the newest job of the longest lane is rejected. A job whose deadline passes while it waits is never started.
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
    """`running`: jobs that have a worker. `limit`: of the newest job; None: as many as there are workers. `is_scheduled`: the lane is in the
    queue of lanes."""

    __slots__ = ("is_scheduled", "limit", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiter[W]] = deque()
        self.running = 0
        self.is_scheduled = False
        self.limit: int | None = None

    @property
    def is_open(self) -> bool:
        return self.limit is None or self.running < self.limit


class Admission(Generic[W]):
    """Assigns workers of any type `W` to jobs. The pool adds each free worker by `offer`; `enter` waits for one; `leave` ends the job.

    `queue`: how many jobs may wait, over all lanes. `queue_timeout_s`: longest wait; None: until the job's own deadline.
    Updates `queued`, `running`, `rejected` and `queue_s` of the counters.
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
        self._scheduled: deque[_Lane[W]] = deque()

    async def enter(self, job: Job, timings: JobTimings) -> W:
        """Wait for a worker. Updates `timings.queue_s`.

        Raises ComputePoolFull and DeadlineExceeded. Cancellation: the job leaves the queue; a worker that was granted at the same moment goes
        to the next job.
        """
        began = self._clock()
        if job.deadline <= began:
            raise self.rejected(DeadlineExceeded("the deadline passed before the function was started"))
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
            timings.queue_s += self._clock() - began
            self._counters.queue_s += self._clock() - began
            self._discard_if_empty(job.lane)

    def leave(self, lane_name: str) -> None:
        """End a job that had a worker. If the worker is still usable, the pool calls `offer` as well."""
        self._lanes[lane_name].running -= 1
        self._counters.running -= 1
        self._discard_if_empty(lane_name)
        self._grant()

    def offer(self, worker: W) -> None:
        """Add a free worker. The one offered last is used first, since it is warm."""
        self._free.append(worker)
        self._grant()

    def withdraw(self, worker: W) -> bool:
        """Remove a free worker. Returns False if it was not free."""
        try:
            self._free.remove(worker)
        except ValueError:
            return False
        return True

    def reject_waiting(self, error: Callable[[], RejectedError]) -> None:
        """Reject every waiting job, because no worker will become free for it."""
        for lane in self._lanes.values():
            while lane.waiting:
                self._reject(lane.waiting.pop(), error())

    def rejected(self, error: E) -> E:
        """`error`, for a job that the pool does not take: counts the job as rejected."""
        self._counters.rejected += 1
        return error

    def full(self, detail: str) -> ComputePoolFull:
        """The error for a job that finds no worker, with an estimated `retry_after_s`."""
        return ComputePoolFull(detail, retry_after_s=self._retry_after_s())

    # ------------------------------------------------------------------------------------------------------- waiting

    async def _wait(self, job: Job, lane: _Lane[W], began: float) -> W:
        self._make_room(lane)
        waiter: _Waiter[W] = _Waiter(job, asyncio.get_running_loop().create_future())
        wait_s = job.deadline - began
        if self._queue_timeout_s is not None:
            wait_s = min(wait_s, self._queue_timeout_s)
        waiter.timer = asyncio.get_running_loop().call_later(wait_s, self._expire, waiter)
        lane.waiting.append(waiter)
        self._schedule(lane)
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
            raise self.rejected(self.full("no worker is free and the queue is full" if self._queue else "no worker is free"))
        self._reject(longest.waiting.pop(), self.full("displaced from the full queue by a job of another step"))

    def _expire(self, waiter: _Waiter[W]) -> None:
        if waiter.future.done():
            return
        self._lanes[waiter.job.lane].waiting.remove(waiter)
        if self._clock() >= waiter.job.deadline - 0.001:
            self._reject(waiter, DeadlineExceeded("no worker became free before the deadline"))
        else:
            self._reject(waiter, self.full("no worker became free within `queue_timeout`"))

    def _reject(self, waiter: _Waiter[W], error: RejectedError) -> None:
        """Reject a job that has already been removed from its lane."""
        self._counters.queued -= 1
        if not waiter.future.done():
            waiter.future.set_exception(self.rejected(error))

    # ------------------------------------------------------------------------------------------------------- granting

    def _grant(self) -> None:
        while self._free and (waiter := self._next()) is not None:
            if waiter.future.done():
                continue
            if waiter.job.deadline <= self._clock():
                waiter.future.set_exception(self.rejected(DeadlineExceeded("no worker became free before the deadline")))
                continue
            self._lanes[waiter.job.lane].running += 1
            self._counters.running += 1
            waiter.future.set_result(self._free.pop())

    def _next(self) -> _Waiter[W] | None:
        """The first job of the first lane that may run another one; that lane moves to the end."""
        for _ in range(len(self._scheduled)):
            lane = self._scheduled.popleft()
            lane.is_scheduled = False
            waiter = lane.waiting.popleft() if lane.waiting and lane.is_open else None
            if lane.waiting:
                self._schedule(lane)
            if waiter is not None:
                self._counters.queued -= 1
                return waiter
        return None

    def _schedule(self, lane: _Lane[W]) -> None:
        if not lane.is_scheduled:
            lane.is_scheduled = True
            self._scheduled.append(lane)

    def _discard_if_empty(self, name: str) -> None:
        lane = self._lanes.get(name)
        if lane is not None and not lane.running and not lane.waiting:
            del self._lanes[name]

    def _retry_after_s(self) -> float:
        """Estimated seconds until the present queue is done, from the mean run time so far; between 1 and 30."""
        counters = self._counters
        ended = counters.done + counters.refused + counters.failed + counters.timed_out + counters.lost
        mean_s = counters.run_s / ended if ended else 1.0
        return min(_LONGEST_RETRY_S, max(1.0, mean_s * (counters.queued + 1) / counters.workers))
