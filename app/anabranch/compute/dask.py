"""The dask backend: runs hooks on a cluster, by dask's own asyncio client. The only module that imports dask.

The gateway does not own the cluster, which may be unavailable: the gateway starts and serves without it, rejects jobs at once with the
reason, and reconnects by itself. Input and result are JSON text as for the other backends. Workers run `anabranch.compute.call.call_hook`,
so this package and the hooks' modules must be installed on them.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Literal
from uuid import uuid4

import dask
from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from anabranch.compute.admission import Admission
from anabranch.compute.call import JobReply, ReplyKind, call_hook
from anabranch.compute.job import Job, JobResult, JobTimings, PoolCounters
from anabranch.compute.reply import logger, settle
from anabranch.core.breaker import Breaker, Judgement
from anabranch.errors import ComputePoolDown, ComputeTimeout, WorkerLost

# How long opening waits for the first connection. An unavailable cluster must not keep the gateway from starting.
_OPEN_WITHIN_S: Final = 1.0
_CONNECT_WITHIN_S: Final = 3.0
_CLOSE_WITHIN_S: Final = 1.0
_PING_EVERY_S: Final = 0.5
_PING_WITHIN_S: Final = 2.0
_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 2.0

_UNREACHABLE: Final = "the cluster cannot be reached"
_NO_WORKERS: Final = "the cluster has no workers"
_LOST: Final = "the connection to the cluster was lost"


def _breaker() -> Breaker:
    """Opens when the cluster has lost at least half of at least ten jobs within ten seconds. A hook's own failures do not count."""
    return Breaker(window_s=10.0, failure_rate=0.5, minimum_calls=10, open_for_s=1.0, probes=1)


class DaskPool:
    """`address`: of the scheduler. `workers`: how many jobs may be on the cluster at once.

    A function that runs on a worker cannot be stopped: after its deadline its result is dropped. A job that has not started by then never
    starts. If a worker dies, dask runs its job on another one, so a hook may run more than once.
    """

    kind: Literal["dask"] = "dask"

    def __init__(
        self, name: str, address: str, *, workers: int, queue: int, queue_timeout_s: float | None, clock: Callable[[], float] = monotonic
    ) -> None:
        self.name = name
        self.counters = PoolCounters(workers)
        self._address = address
        self._clock = clock
        self._breaker = _breaker()
        self._admission: Admission[object] = Admission(self.counters, queue=queue, queue_timeout_s=queue_timeout_s, clock=clock)
        self._client: Client | None = None
        self._down_reason: str | None = "the pool is not open"
        self._has_tried = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[Any]] = set()
        _silence_dask()

    async def aopen(self) -> None:
        """Connect. Returns within a second even if there is no cluster; the connection is then retried in the background."""
        self._down_reason = _UNREACHABLE
        self._has_tried.clear()
        self._connecting = asyncio.get_running_loop().create_task(
            self._stay_connected(), name=f"connection to the cluster of pool {self.name}"
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_OPEN_WITHIN_S):
                await self._has_tried.wait()
        for _ in range(self.counters.workers):
            self._admission.offer(object())

    async def aclose(self) -> None:
        """Disconnect from the cluster. Running jobs fail with ComputePoolDown."""
        self._down_reason = "the gateway is stopping"
        self._reject_waiting()
        if self._connecting is not None:
            # Repeatedly, because dask's client loses a cancellation that arrives while it is giving up.
            while not self._connecting.done():
                self._connecting.cancel()
                await asyncio.wait((self._connecting,), timeout=_CLOSE_WITHIN_S)
            self._connecting = None
        if self._ending:
            await asyncio.wait(set(self._ending), timeout=_CLOSE_WITHIN_S)

    async def run(self, job: Job, timings: JobTimings) -> JobResult:
        """Run one job. Cancellation: a job that has not started is removed from the cluster; of a running one the result is dropped."""
        self._check()
        slot = await self._admission.enter(job, timings)
        try:
            self._check()
            permit = self._breaker.allow(self._clock())
            if permit is None:
                raise self._down("the cluster has lost too many jobs")
            began = self._clock()
            outcome: Judgement = "ignore"
            try:
                reply = await self._on_cluster(job, timings)
                outcome = "success"
            except (WorkerLost, ComputePoolDown):
                outcome = "failure"
                raise
            finally:
                timings.run_s = self._clock() - began
                self.counters.run_s += timings.run_s
                self._breaker.record(self._clock(), permit, outcome, timings.run_s)
        finally:
            self._admission.offer(slot)
            self._admission.leave(job.lane)
        return JobResult(settle(job, reply, self.counters), timings.queue_s, timings.run_s)

    # ---------------------------------------------------------------------------------------------------------- jobs

    def _check(self) -> None:
        """Raise ComputePoolDown if no job can be sent."""
        if self._client is None or self._down_reason is not None:
            raise self._down(self._down_reason or _UNREACHABLE)
        if not self._breaker.would_allow(self._clock()):
            raise self._down("the cluster has lost too many jobs")

    def _down(self, reason: str) -> ComputePoolDown:
        self.counters.rejected += 1
        return ComputePoolDown(reason, retry_after_s=max(1.0, self._breaker.retry_after_s(self._clock())))

    async def _on_cluster(self, job: Job, timings: JobTimings) -> JobReply:
        assert self._client is not None
        timings.attempts = 1
        future: Future[Any] | None = None
        result: asyncio.Task[Any] | None = None
        try:
            # The key starts with the hook's name, so that the scheduler learns how long each hook takes.
            future = self._client.submit(call_hook, job.hook, job.input, key=f"{job.hook}-{uuid4().hex}", pure=False)
            # A task of its own, so that our deadline does not depend on how dask's client handles cancellation.
            result = asyncio.get_running_loop().create_task(future.result())
            await asyncio.wait((result,), timeout=job.deadline - monotonic())
            if not result.done():
                raise self._late(job)  # noqa: TRY301 - the except clauses translate what dask raises
            kind, payload = result.result()
            return JobReply(ReplyKind(kind), payload)
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        except (ComputeTimeout, ComputePoolDown):
            raise
        except KilledWorker:
            self.counters.lost += 1
            logger.error("hook %s of step %s: every cluster worker that ran it died", job.hook, job.lane)
            raise WorkerLost("the cluster workers that ran the function died", may_be_processed=True) from None
        except (FutureCancelledError, OSError):
            raise self._lost(job, _LOST) from None
        except Exception as error:  # any other failure of the cluster, most often code that is missing on its workers
            self.counters.lost += 1
            logger.exception("hook %s of step %s: the cluster could not run it", job.hook, job.lane)
            raise WorkerLost(f"the cluster could not run the function: {type(error).__name__}", may_be_processed=True) from error
        finally:
            if result is not None and not result.done():
                result.cancel()
                self._keep_until_done(result)
            if future is not None and future.status != "finished":
                self._cancel(future)

    def _late(self, job: Job) -> ComputeTimeout | ComputePoolDown:
        """The error for a job whose deadline has passed: a timeout of the function, unless the cluster is unavailable."""
        if self._down_reason is not None:
            return self._lost(job, self._down_reason)
        self.counters.timed_out += 1
        return ComputeTimeout("the function did not return in time", may_be_processed=True)

    def _lost(self, job: Job, reason: str) -> ComputePoolDown:
        """The error for a job that was sent to the cluster. Whether it ran is unknown."""
        self.counters.lost += 1
        logger.error("hook %s of step %s: %s", job.hook, job.lane, reason)
        return ComputePoolDown(reason, may_be_processed=True, retry_after_s=1.0)

    def _cancel(self, future: "Future[Any]") -> None:
        """Ask the scheduler to cancel a job, in the background."""

        async def cancel() -> None:
            with suppress(Exception):  # the connection is lost, and the job with it
                await future.cancel(reason="the gateway no longer waits for it")  # type: ignore[no-untyped-call]

        self._keep_until_done(asyncio.get_running_loop().create_task(cancel()))

    def _keep_until_done(self, task: asyncio.Task[Any]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # ---------------------------------------------------------------------------------------------------- connection

    async def _stay_connected(self) -> None:
        """Connect, watch the connection until it breaks, and reconnect, until cancelled."""
        wait_s = _BACKOFF_S
        is_logged = False
        while True:
            client = await self._connect()
            if client is None:
                if not is_logged:
                    logger.warning("compute backend %s: %s; the connection is retried", self.name, _UNREACHABLE)
                is_logged = True
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_BACKOFF_S, wait_s * 2)
                continue
            wait_s, is_logged = _BACKOFF_S, False
            self._client = client
            try:
                await self._watch(client)
                logger.warning("compute backend %s: %s", self.name, _LOST)
            finally:
                self._client = None
                if self._down_reason in (None, _NO_WORKERS):
                    self._down_reason = _LOST
                self._reject_waiting()
                await _close(client)

    async def _connect(self) -> Client | None:
        """A connected client; None if the cluster cannot be reached."""
        client: Client | None = None
        try:
            client = Client(  # type: ignore[no-untyped-call]
                self._address, asynchronous=True, set_as_default=False, timeout=_CONNECT_WITHIN_S, name=f"anabranch-{self.name}"
            )
            async with asyncio.timeout(_CONNECT_WITHIN_S + _CLOSE_WITHIN_S):
                await client
        except asyncio.CancelledError:
            if client is not None:
                await _close(client)
            raise
        except Exception as error:  # noqa: BLE001 - refused, unknown name, no answer, another protocol, invalid address, incompatible versions
            logger.debug("compute backend %s: %s: %s", self.name, type(error).__name__, error)
            if client is not None:
                await _close(client)
            self._down_reason = _UNREACHABLE
            self._has_tried.set()
            return None
        return client

    async def _watch(self, client: Client) -> None:
        """Return when the connection breaks or the scheduler does not answer."""
        while client.status == "running":
            try:
                async with asyncio.timeout(_PING_WITHIN_S):
                    threads = await client.nthreads()  # type: ignore[no-untyped-call]
            except asyncio.CancelledError:
                raise
            except Exception:  # noqa: BLE001 - however the scheduler fails to answer
                return
            self._update(_NO_WORKERS if not threads else None)
            self._has_tried.set()
            until = self._clock() + _PING_EVERY_S
            # Dask has no event for a broken connection, only a status.
            while client.status == "running" and self._clock() < until:  # noqa: ASYNC110
                await asyncio.sleep(_PING_EVERY_S / 10)

    def _update(self, down_reason: str | None) -> None:
        """Set the state of the cluster and log a change. `down_reason`: None if it is available."""
        if down_reason != self._down_reason:
            if down_reason is None:
                logger.info("compute backend %s: the cluster is available", self.name)
            else:
                logger.warning("compute backend %s: %s", self.name, down_reason)
        self._down_reason = down_reason
        if down_reason is not None:
            self._reject_waiting()

    def _reject_waiting(self) -> None:
        reason = self._down_reason or _LOST
        self._admission.reject_waiting(lambda: ComputePoolDown(reason, retry_after_s=1.0))


async def _close(client: Client) -> None:
    """Close a client in any state, within a time limit: dask's own close may hang on a broken connection."""
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_WITHIN_S):
            await client.close(timeout=_CLOSE_WITHIN_S)  # type: ignore[no-untyped-call]


def _silence_dask() -> None:
    """Silence dask's own log on stderr, since we log the same, and its warning about jobs above 10 MB, which are intended."""
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
