"""The process backend: warm worker processes for CPU-bound Python functions, and their replacement.

A function can harm only its own job. After the deadline its worker is killed; if the worker dies, the job fails with the reason; in both
cases a new worker replaces it. A worker is also killed if its client disconnects: forking a warm worker costs less than most jobs.
"""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, Final, Literal

from anabranch.compute.admission import Admission
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
    uses more after a job is replaced; None: no limit."""

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
        self._fork_client: ForkClient | None = None
        self._channels: dict[int, WorkerChannel] = {}
        self._numbers = 0
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._down_since: float | None = None
        self._is_open = False

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the current workers."""
        return tuple(self._fork_client.pids.values()) if self._fork_client is not None else ()

    @property
    def down_for_s(self) -> float | None:
        """For how many seconds the pool has had no worker and could not start one; None while it has one."""
        return None if self._down_since is None else monotonic() - self._down_since

    @property
    def fork_server_pid(self) -> int | None:
        return self._fork_client.pid if self._fork_client is not None else None

    async def aopen(self) -> None:
        """Start the fork server and all workers, and wait until they are warm or their start has failed, at most 60 s. Failed starts are retried
        in the background; see `down_for_s`."""
        self._is_open = True
        fork_client = self._new_fork_client()
        try:
            await fork_client.start_in_thread()
        except OSError as error:
            self._on_start_failure(error)
        else:
            self._fork_client = fork_client
        for _ in range(self.counters.workers):
            self._start_worker(0.0)
        await asyncio.wait(self._starts, timeout=_START_WITHIN_S + _REASON_WITHIN_S)

    async def aclose(self) -> None:
        """Kill every worker and wait until all have ended. Running jobs fail with ComputePoolDown."""
        self._is_open = False
        self._admission.reject_waiting(lambda: ComputePoolDown("the gateway is stopping"))
        for task in self._starts:
            task.cancel()
        if self._starts or self._ends:
            await asyncio.wait(self._starts | self._ends)
        if self._fork_client is not None:
            await self._fork_client.aclose()
            self._fork_client = None
        for channel in list(self._channels.values()):
            channel.is_dead = True
            channel.hang_up()
            if self._admission.withdraw(channel):
                self._close(channel)
        await asyncio.sleep(0)

    async def run(self, job: Job, timings: JobTimings) -> JobResult:
        """Run one job. Cancellation: its worker is killed and replaced."""
        channel = await self._enter(job, timings)
        timings.attempts = 1
        began = monotonic()
        is_reusable = False
        try:
            async with asyncio.timeout_at(job.deadline):
                reply = await channel.run(job)
            is_reusable = True
        except TimeoutError:
            self.counters.timed_out += 1
            raise ComputeTimeout("the function did not return in time and was killed", may_be_processed=True) from None
        except WorkerGone:
            raise await self._lost(job, channel) from None
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        finally:
            timings.run_s = monotonic() - began
            self.counters.run_s += timings.run_s
            self._finish(channel, job, is_reusable=is_reusable)
        return JobResult(settle(job, reply, self.counters), timings.queue_s, timings.run_s)

    # ---------------------------------------------------------------------------------------------------------- jobs

    async def _enter(self, job: Job, timings: JobTimings) -> WorkerChannel:
        while True:
            if not self._is_open:
                raise self._admission.rejected(ComputePoolDown("the pool is not open"))
            if self._failures >= _DOWN_AFTER and not self._channels:
                raise self._admission.rejected(ComputePoolDown("no worker process can be started", retry_after_s=_LONGEST_BACKOFF_S))
            channel = await self._admission.enter(job, timings)
            if not channel.exit_code.done() and not channel.is_gone:
                return channel
            # The worker died after it became free.
            self._discard(channel)
            self._admission.leave(job.lane)

    def _finish(self, channel: WorkerChannel, job: Job, *, is_reusable: bool) -> None:
        """End a job: offer its worker again or replace it."""
        if is_reusable and not channel.is_dead and self._is_open and channel.jobs < self._recycle_after and not self._is_too_big(channel):
            self._admission.offer(channel)
        else:
            self._discard(channel)
        self._admission.leave(job.lane)

    def _is_too_big(self, channel: WorkerChannel) -> bool:
        if self._max_memory_bytes is None or channel.resident_bytes <= self._max_memory_bytes:
            return False
        logger.info("replacing a worker of pool %s: it uses %d MiB", self.name, channel.resident_bytes >> 20)
        return True

    def _discard(self, channel: WorkerChannel) -> None:
        """Kill a worker and close its channel. Starts another one, unless it was already dead."""
        was_dead = channel.is_dead
        channel.is_dead = True
        if self._fork_client is not None:
            self._fork_client.kill(channel.number)
        self._close(channel)
        if not was_dead:
            self._replace()

    def _close(self, channel: WorkerChannel) -> None:
        if self._channels.pop(channel.number, None) is not None:
            channel.close()

    async def _lost(self, job: Job, channel: WorkerChannel) -> WorkerLost | ComputePoolDown:
        """The error for a job whose worker has ended. Waits up to a second for the fork server to report the reason."""
        if not self._is_open:
            return ComputePoolDown("the gateway is stopping")
        self.counters.lost += 1
        if self._fork_client is not None:
            self._fork_client.kill(channel.number)
        await asyncio.wait({channel.exit_code}, timeout=_REASON_WITHIN_S)
        reason = _reason(channel.exit_code.result()) if channel.exit_code.done() else "unknown reason"
        logger.error("hook %s of step %s: its worker process ended: %s", job.hook, job.lane, reason)
        return WorkerLost(f"the worker process ended: {reason}", may_be_processed=True)

    # ------------------------------------------------------------------------------------------------------- workers

    def _new_fork_client(self) -> ForkClient:
        return ForkClient(self._hooks, on_death=self._on_death, on_end=self._on_end)

    def _on_start_failure(self, error: OSError) -> None:
        logger.error("the fork server of pool %s cannot be started: %s", self.name, error)
        self._start_fork_server_later()

    def _start_fork_server(self) -> None:
        fork_client = self._new_fork_client()
        try:
            fork_client.start()
        except OSError as error:
            self._on_start_failure(error)
        else:
            self._fork_client = fork_client

    def _start_fork_server_later(self) -> None:
        async def start() -> None:
            await asyncio.sleep(self._backoff_s())
            self._start_fork_server()

        self._failures += 1
        self._spawn(start(), self._starts)

    def _backoff_s(self) -> float:
        return min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0 ** min(self._failures, 10))

    def _spawn(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        """Run `work` as a background task. Closing cancels the tasks in `_starts` and waits for those in `_ends`."""
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _replace(self) -> None:
        self.counters.restarts += 1
        self._start_worker(0.0)

    def _start_worker(self, delay_s: float) -> None:
        if self._is_open:
            self._spawn(self._start(delay_s), self._starts)

    async def _start(self, delay_s: float) -> None:
        """Fork one worker and offer it once it is ready. Retries with a growing delay if that fails."""
        if delay_s:
            await asyncio.sleep(delay_s)
        channel: WorkerChannel | None = None
        try:
            self._numbers += 1
            channel = WorkerChannel(self._numbers)
            if self._fork_client is None:
                raise ConnectionError
            self._fork_client.fork(channel.number, channel.worker_socket, channel.arena)
            channel.worker_socket.close()
            self._channels[channel.number] = channel
            async with asyncio.timeout(_START_WITHIN_S):
                await channel.ready()
        except (OSError, WorkerGone) as error:
            self._failures += 1
            if channel is not None:
                self._channels[channel.number] = channel
                channel.is_dead = True
                self._discard(channel)
            wait_s = self._backoff_s()
            logger.warning("could not start a worker of pool %s (%s); next attempt in %.1f s", self.name, type(error).__name__, wait_s)
            has_worker = any(not other.is_dead for other in self._channels.values())
            if not has_worker and self._down_since is None:
                self._down_since = monotonic()
            if not has_worker and self._failures >= _DOWN_AFTER:
                self._admission.reject_waiting(
                    lambda: ComputePoolDown("no worker process can be started", retry_after_s=_LONGEST_BACKOFF_S)
                )
            self._start_worker(wait_s)
        except asyncio.CancelledError:
            if channel is not None:
                channel.is_dead = True
                self._channels[channel.number] = channel
                self._close(channel)
            raise
        else:
            self._failures = 0
            self._down_since = None
            self._admission.offer(channel)

    def _on_death(self, number: int, code: int) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        if not channel.exit_code.done():
            channel.exit_code.set_result(code)
        if self._admission.withdraw(channel):
            logger.warning("an idle worker of pool %s ended: %s", self.name, _reason(code))
            self._discard(channel)
        else:
            channel.hang_up()

    def _on_end(self) -> None:
        """Called when the fork server has ended, and all workers with it: start another one."""
        logger.error("the fork server of pool %s has ended; starting another one", self.name)
        fork_client, self._fork_client = self._fork_client, None
        if fork_client is not None:
            self._spawn(fork_client.aclose(), self._ends)
        if fork_client is not None and fork_client.warm.is_set():
            self._start_fork_server()
        else:
            self._start_fork_server_later()
        for channel in list(self._channels.values()):
            if not channel.exit_code.done():
                channel.exit_code.set_result(-signal.SIGKILL)
            if self._admission.withdraw(channel):
                self._discard(channel)
            else:
                channel.hang_up()


def _reason(code: int) -> str:
    """The exit code of a worker in words."""
    if code <= -1000:
        return "the process could not be forked"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"signal {-code} ({name})"
    return f"exit code {code}"
