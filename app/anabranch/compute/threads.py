"""The thread backend: a bounded pool of threads for functions that are short or release the GIL, and the event loop for async functions.

A thread cannot be stopped. If its function runs past the deadline, the thread is *stuck* until the function returns: it is counted and
cannot take another job. Before stuck threads fill the pool, further calls of the functions that block them are rejected.
"""

import asyncio
import threading
from collections import Counter
from contextvars import Context
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final, Literal

import msgspec

from anabranch.compute.admission import Admission
from anabranch.compute.call import Hook, JobReply, ReplyKind, call_hook, dumped, failed, invalid, resolve
from anabranch.compute.job import Job, JobResult, JobTimings, PoolCounters
from anabranch.compute.reply import logger, settle
from anabranch.compute.stall import Watched
from anabranch.errors import ComputePoolDown, ComputeTimeout

# How long closing waits for running threads, and how long a cancelled coroutine has to end.
_PATIENCE_S: Final = 0.5
_ALL_STUCK: Final = "every thread is stuck in a function that exceeded its deadline"


class _Task:
    """One job on a thread. `reply`: set on the loop; cancelled with the caller."""

    __slots__ = ("hook", "input", "is_stuck", "lane", "reply")

    def __init__(self, job: Job, reply: "asyncio.Future[JobReply]") -> None:
        self.hook = job.hook
        self.input = job.input
        self.lane = job.lane
        self.reply = reply
        self.is_stuck = False


class _Worker:
    """A thread and its inbox. Started at its first task."""

    __slots__ = ("_name", "_pool", "inbox", "thread")

    def __init__(self, pool: "ThreadPool", name: str) -> None:
        self._pool = pool
        self._name = name
        self.inbox: SimpleQueue[_Task | None] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def give(self, task: _Task) -> None:
        if self.thread is None:
            # A daemon thread: a function that never returns must not keep the process from exiting.
            self.thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self.thread.start()
        self.inbox.put(task)

    @property
    def is_alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def _work(self) -> None:
        while (task := self.inbox.get()) is not None:
            # An empty context for each call, so that context variables do not leak into the next one.
            reply = Context().run(call_hook, task.hook, task.input)
            self._pool.report_reply(self, task, reply)
            del task, reply


class ThreadPool:
    """A pool of at most `workers` threads, each started with its first job.

    `stall_s`: an async hook that blocks the loop for longer is logged. An async hook occupies a worker but starts no thread.
    """

    kind: Literal["thread"] = "thread"

    def __init__(self, name: str, *, workers: int, queue: int, queue_timeout_s: float | None, stall_s: float) -> None:
        self.name = name
        self.counters = PoolCounters(workers)
        self._stall_s = stall_s
        self._workers = [_Worker(self, f"compute-{name}-{number}") for number in range(workers)]
        self._admission: Admission[_Worker] = Admission(self.counters, queue=queue, queue_timeout_s=queue_timeout_s)
        self._stuck: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False
        self._given: set[_Task] = set()
        self._tasks: set[asyncio.Task[JobReply]] = set()

    async def aopen(self) -> None:
        """Open the pool. Starts no thread."""
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        for worker in self._workers:
            self._admission.offer(worker)

    async def aclose(self) -> None:
        """End idle threads. Busy ones get half a second, and are then abandoned until the process exits."""
        self._is_open = False
        self._admission.reject_waiting(lambda: ComputePoolDown("the gateway is stopping"))
        for worker in self._workers:
            worker.inbox.put(None)
        for coroutine in self._tasks:
            coroutine.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_S)
        until = monotonic() + _PATIENCE_S
        while any(worker.is_alive for worker in self._workers) and monotonic() < until:  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.005)
        self._loop = None
        for task in self._given:
            if not task.reply.done():
                task.reply.set_exception(ComputePoolDown("the gateway is stopping"))

    async def run(self, job: Job, timings: JobTimings) -> JobResult:
        """Run one job. Cancellation: the thread stays occupied until the function returns, and the result is dropped."""
        if not self._is_open:
            raise self._admission.rejected(ComputePoolDown("the pool is not open"))
        hook = resolve(job.hook)
        self._reject_stuck(job)
        worker = await self._admission.enter(job, timings)
        timings.attempts = 1
        began = monotonic()
        try:
            if hook.is_async:
                reply = await self._on_loop(job, hook, worker)
            else:
                reply = await self._on_thread(job, worker)
        except ComputeTimeout:
            self.counters.timed_out += 1
            raise
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        finally:
            timings.run_s = monotonic() - began
            self.counters.run_s += timings.run_s
        return JobResult(settle(job, reply, self.counters), timings.queue_s, timings.run_s)

    # ------------------------------------------------------------------------------------------------------- threads

    async def _on_thread(self, job: Job, worker: _Worker) -> JobReply:
        loop = asyncio.get_running_loop()
        task = _Task(job, loop.create_future())
        worker.give(task)
        self._given.add(task)
        timer = loop.call_later(job.deadline - monotonic(), self._expire, task)
        # The timer outlives a cancellation: a function still running at its deadline is stuck, whether or not the caller has left.
        reply = await task.reply
        timer.cancel()
        return reply

    def report_reply(self, worker: _Worker, task: _Task, reply: JobReply) -> None:
        """Pass a reply to the loop. Called on a worker's thread."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._on_reply, worker, task, reply)
            except RuntimeError:  # the loop was closed meanwhile, so no caller is left
                return

    def _on_reply(self, worker: _Worker, task: _Task, reply: JobReply) -> None:
        self._given.discard(task)
        if task.is_stuck:
            self._unstick(task.hook)
        if not task.reply.done():
            task.reply.set_result(reply)
        self._admission.leave(task.lane)
        self._admission.offer(worker)

    def _expire(self, task: _Task) -> None:
        if task not in self._given or task.is_stuck:
            return
        task.is_stuck = True
        self._stick(task.hook)
        if not task.reply.done():
            task.reply.set_exception(ComputeTimeout("the function did not return in time", may_be_processed=True))

    # --------------------------------------------------------------------------------------------------------- stuck

    def _stick(self, hook: str) -> None:
        self.counters.stuck += 1
        self._stuck[hook] += 1
        logger.warning("hook %s is still running after its deadline; %d of %d threads of pool %s are stuck",
                       hook, self.counters.stuck, self.counters.workers, self.name)  # fmt: skip
        if self.counters.stuck >= self.counters.workers:
            self._admission.reject_waiting(lambda: self._admission.full(_ALL_STUCK))

    def _unstick(self, hook: str) -> None:
        self.counters.stuck -= 1
        self._stuck[hook] -= 1
        if not self._stuck[hook]:
            del self._stuck[hook]

    def _reject_stuck(self, job: Job) -> None:
        """Raise ComputePoolFull if waiting is pointless: every thread is stuck, or this hook's stuck calls occupy half of them."""
        if self.counters.stuck >= self.counters.workers:
            raise self._admission.rejected(self._admission.full(_ALL_STUCK))
        if self._stuck and self._stuck[job.hook] * 2 >= self.counters.workers:
            raise self._admission.rejected(self._admission.full("too many calls of this function are still running after their deadline"))

    # ---------------------------------------------------------------------------------------------------------- loop

    async def _on_loop(self, job: Job, hook: Hook, worker: _Worker) -> JobReply:
        """Run an async hook as a task of its own. If it does not end when cancelled, it is stuck."""
        task = asyncio.get_running_loop().create_task(self._watched(job, hook), context=Context())
        self._tasks.add(task)
        has_ended = False

        def ended(task: asyncio.Task[JobReply]) -> None:
            nonlocal has_ended
            has_ended = True
            self._tasks.discard(task)
            self._admission.leave(job.lane)
            self._admission.offer(worker)

        task.add_done_callback(ended)
        try:
            await asyncio.wait({task}, timeout=job.deadline - monotonic())
            if task.done() and not task.cancelled():
                return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_PATIENCE_S)
                if not has_ended and not task.done():
                    self._stick(job.hook)
                    task.add_done_callback(lambda _: self._unstick(job.hook))
        if task.cancelled() and monotonic() < job.deadline:
            return failed(asyncio.CancelledError("the hook cancelled itself"))
        raise ComputeTimeout("the function did not return in time", may_be_processed=True)

    async def _watched(self, job: Job, hook: Hook) -> JobReply:
        def on_stall(blocked_s: float) -> None:
            logger.warning("async hook %s blocked the event loop for %.0f ms", job.hook, blocked_s * 1000)

        reply: JobReply = await Watched(_call(hook, job.input), threshold_s=self._stall_s, on_stall=on_stall)
        return reply


async def _call(hook: Hook, text: bytes) -> JobReply:
    """Like `call_hook`, for an async hook. Raises CancelledError."""
    try:
        arguments: dict[str, Any] = hook.arguments(text)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return invalid(ReplyKind.INVALID_INPUT, error)
    except Exception as error:  # noqa: BLE001 - runs validators of the user's types
        return failed(error)
    try:
        value = await hook.function(**arguments)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - includes SystemExit, which would end the gateway
        return failed(error)
    return dumped(hook, value)
