"""The process backend: warm worker processes for functions that are busy with Python, and a supervisor that replaces them.

Whatever a function does to its process, it does to its own job only: past its time the worker is killed, when it dies its job fails with
the reason, and a fresh one takes its place. A job whose client has gone is killed too: forking a warm worker costs less than most jobs.
"""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, Final, Literal

from anabranch.compute.admission import Admission
from anabranch.compute.call import ReplyKind
from anabranch.compute.job import Job, JobResult, JobTimings, PoolCounters
from anabranch.compute.processes.channel import WorkerChannel, WorkerGone
from anabranch.compute.processes.fork_client import ForkClient
from anabranch.compute.reply import logger, settle
from anabranch.errors import ComputePoolDown, ComputeTimeout, WorkerLost

_START_WITHIN_S: Final = 60.0
_REASON_WITHIN_S: Final = 1.0
_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 5.0
_DOWN_AFTER: Final = 3


class ProcessPool:
    """`hooks`: imported before workers are forked. `recycle_after`: jobs after which a worker is replaced. `max_memory_bytes`: a worker that
    holds more after a job is replaced; None: whatever it holds."""

    kind: Literal["process"] = "process"

    def __init__(
        self, name: str, hooks: Sequence[str], *, workers: int, queue: int, queue_timeout_s: float | None, recycle_after: int,
        max_memory_bytes: int | None,
    ) -> None:  # fmt: skip
        self.name = name
        self.counters = PoolCounters(workers)
        self._hooks = tuple(hooks)
        self._recycle_after = recycle_after
        self._max_memory_bytes = max_memory_bytes
        self._admission: Admission[WorkerChannel] = Admission(self.counters, queue=queue, queue_timeout_s=queue_timeout_s)
        self._nursery: ForkClient | None = None
        self._channels: dict[int, WorkerChannel] = {}
        self._numbers = 0
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._is_open = False

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' processes that there are now."""
        return tuple(self._nursery.pids.values()) if self._nursery is not None else ()

    @property
    def fork_server_pid(self) -> int | None:
        return self._nursery.pid if self._nursery is not None else None

    async def aopen(self) -> None:
        """Start the fork server and all workers; they are warm when this returns. What cannot be started is tried again behind it."""
        self._is_open = True
        nursery = self._new_nursery()
        try:
            await nursery.start_aside()
        except OSError as error:
            self._not_started(error)
        else:
            self._nursery = nursery
        for _ in range(self.counters.workers):
            self._start_worker(0.0)
        await asyncio.wait(self._starts, timeout=_START_WITHIN_S)

    async def aclose(self) -> None:
        """Kill every worker and wait until none is left. Jobs that run fail with ComputePoolDown."""
        self._is_open = False
        self._admission.refuse_waiting(lambda: ComputePoolDown("the gateway is stopping"))
        for task in self._starts:
            task.cancel()
        if self._starts or self._ends:
            await asyncio.wait(self._starts | self._ends)
        if self._nursery is not None:
            await self._nursery.aclose()
            self._nursery = None
        for channel in list(self._channels.values()):
            channel.is_dead = True
            channel.hang_up()
            if self._admission.withdraw(channel):
                self._close(channel)
        await asyncio.sleep(0)

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        """Run one job. Cancellation: its worker is killed and replaced."""
        channel = await self._enter(job, clock)
        clock.attempts = 1
        began = monotonic()
        is_fit = False
        try:
            async with asyncio.timeout_at(job.deadline):
                reply = await channel.run(job)
            is_fit = True
        except TimeoutError:
            self.counters.timed_out += 1
            raise ComputeTimeout("the function did not return in time; it was stopped", may_be_processed=True) from None
        except WorkerGone:
            raise await self._lost(job, channel) from None
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        finally:
            clock.run_s = monotonic() - began
            self.counters.run_s += clock.run_s
            self._take_back(channel, job, is_fit=is_fit)
        if reply.kind is ReplyKind.VALUE:
            self.counters.done += 1
        else:
            self.counters.failed += 1
        return JobResult(settle(job, reply), clock.queue_s, clock.run_s)

    # ---------------------------------------------------------------------------------------------------------- jobs

    async def _enter(self, job: Job, clock: JobTimings) -> WorkerChannel:
        while True:
            if not self._is_open:
                raise ComputePoolDown("the pool is not open")
            if self._failures >= _DOWN_AFTER and not self._channels:
                self.counters.rejected += 1
                raise ComputePoolDown("no worker can be started", retry_after_s=_LONGEST_BACKOFF_S)
            channel = await self._admission.enter(job, clock)
            if not channel.end.done() and not channel.is_gone:
                return channel
            # It died between being free and being given.
            self._give_up(channel)
            self._admission.leave(job.lane)

    def _take_back(self, channel: WorkerChannel, job: Job, *, is_fit: bool) -> None:
        """A job has ended: its worker is free again, or replaced."""
        if is_fit and not channel.is_dead and self._is_open and channel.jobs < self._recycle_after and not self._is_too_big(channel):
            self._admission.offer(channel)
        else:
            self._give_up(channel)
        self._admission.leave(job.lane)

    def _is_too_big(self, channel: WorkerChannel) -> bool:
        if self._max_memory_bytes is None or channel.resident_bytes <= self._max_memory_bytes:
            return False
        logger.info("a worker of pool %s is replaced: it holds %d MiB", self.name, channel.resident_bytes >> 20)
        return True

    def _give_up(self, channel: WorkerChannel) -> None:
        was_dead = channel.is_dead
        channel.is_dead = True
        if self._nursery is not None:
            self._nursery.kill(channel.number)
        self._close(channel)
        if not was_dead:
            self._replace()

    def _close(self, channel: WorkerChannel) -> None:
        if self._channels.pop(channel.number, None) is not None:
            channel.close()

    async def _lost(self, job: Job, channel: WorkerChannel) -> WorkerLost | ComputePoolDown:
        """Why a worker is gone, as soon as the fork server has said it."""
        if not self._is_open:
            return ComputePoolDown("the gateway is stopping")
        self.counters.lost += 1
        if self._nursery is not None:
            self._nursery.kill(channel.number)
        await asyncio.wait({channel.end}, timeout=_REASON_WITHIN_S)
        reason = _reason(channel.end.result()) if channel.end.done() else "it is gone without a word"
        logger.error("hook %s of step %s: its worker process ended: %s", job.hook, job.lane, reason)
        return WorkerLost(f"the worker process ended: {reason}", may_be_processed=True)

    # ------------------------------------------------------------------------------------------------------- workers

    def _new_nursery(self) -> ForkClient:
        return ForkClient(self._hooks, on_death=self._on_death, on_end=self._on_end)

    def _not_started(self, error: OSError) -> None:
        logger.error("the fork server of pool %s cannot be started: %s", self.name, error)
        self._start_nursery_later()

    def _start_nursery(self) -> None:
        nursery = self._new_nursery()
        try:
            nursery.start()
        except OSError as error:
            self._not_started(error)
        else:
            self._nursery = nursery

    def _start_nursery_later(self) -> None:
        async def start() -> None:
            await asyncio.sleep(self._backoff_s())
            self._start_nursery()

        self._failures += 1
        self._keep(start(), self._starts)

    def _backoff_s(self) -> float:
        return min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0 ** min(self._failures, 10))

    def _keep(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        """Run something beside the jobs. Closing cancels what starts and waits for what ends."""
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _replace(self) -> None:
        self.counters.restarts += 1
        self._start_worker(0.0)

    def _start_worker(self, delay_s: float) -> None:
        if self._is_open:
            self._keep(self._start(delay_s), self._starts)

    async def _start(self, delay_s: float) -> None:
        """Fork one worker and offer it once it is ready. When that fails, it is tried again, later each time."""
        if delay_s:
            await asyncio.sleep(delay_s)
        channel: WorkerChannel | None = None
        try:
            self._numbers += 1
            channel = WorkerChannel(self._numbers)
            if self._nursery is None:
                raise ConnectionError
            self._nursery.fork(channel.number, channel.theirs, channel.arena)
            channel.theirs.close()
            self._channels[channel.number] = channel
            async with asyncio.timeout(_START_WITHIN_S):
                await channel.ready()
        except (OSError, WorkerGone) as error:
            self._failures += 1
            if channel is not None:
                self._channels[channel.number] = channel
                channel.is_dead = True
                self._give_up(channel)
            wait_s = self._backoff_s()
            logger.warning(
                "a worker of pool %s could not be started (%s); the next try is in %.1f s", self.name, type(error).__name__, wait_s
            )
            if self._failures >= _DOWN_AFTER and not any(not other.is_dead for other in self._channels.values()):
                self._admission.refuse_waiting(lambda: ComputePoolDown("no worker can be started", retry_after_s=_LONGEST_BACKOFF_S))
            self._start_worker(wait_s)
        except asyncio.CancelledError:
            if channel is not None:
                channel.is_dead = True
                self._channels[channel.number] = channel
                self._close(channel)
            raise
        else:
            self._failures = 0
            self._admission.offer(channel)

    def _on_death(self, number: int, code: int) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        if not channel.end.done():
            channel.end.set_result(code)
        if self._admission.withdraw(channel):
            logger.warning("an idle worker of pool %s ended: %s", self.name, _reason(code))
            self._give_up(channel)
        else:
            channel.hang_up()

    def _on_end(self) -> None:
        """The fork server is gone, and all workers with it."""
        logger.error("the fork server of pool %s has ended and is started again", self.name)
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            self._keep(nursery.aclose(), self._ends)
        if nursery is not None and nursery.warm.is_set():
            self._start_nursery()
        else:
            self._start_nursery_later()
        for channel in list(self._channels.values()):
            if not channel.end.done():
                channel.end.set_result(-signal.SIGKILL)
            if self._admission.withdraw(channel):
                self._give_up(channel)
            else:
                channel.hang_up()


def _reason(code: int) -> str:
    """A worker's end in words."""
    if code <= -1000:
        return "no process could be made for it"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"signal {-code} ({name})"
    return f"exit code {code}"
