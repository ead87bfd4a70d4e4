"""The dask backend: hooks on a cluster, over dask's own asyncio client. The only module that imports dask.

The cluster is somebody else's and may be away: the gateway starts and serves without it, jobs are turned away at once with the reason, and
the connection is made again by itself. Input and result are the same JSON text as everywhere; what a worker runs is
`anabranch.compute.call.call_hook`, so this package and the hooks' modules have to be installed on the workers.
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

# How long opening waits for the first connection. A cluster that is away must not keep the gateway from starting.
_PATIENCE_S: Final = 1.0
_CONNECT_WITHIN_S: Final = 3.0
_CLOSE_WITHIN_S: Final = 1.0
_PING_EVERY_S: Final = 0.5
_PING_WITHIN_S: Final = 2.0
_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 2.0

_AWAY: Final = "the cluster cannot be reached"
_IDLE: Final = "the cluster has no workers"
_LOST: Final = "the connection to the cluster was lost"


def _breaker() -> Breaker:
    """Opens when at least half of ten jobs or more within ten seconds were lost by the cluster itself. A hook's own failures do not count."""
    return Breaker(window_s=10.0, failure_rate=0.5, minimum_calls=10, open_for_s=1.0, probes=1)


class DaskPool:
    """`address`: of the scheduler. `workers`: jobs that may be on the cluster at once.

    A function that runs on a worker cannot be stopped: when its time is over its result is dropped. A job that has not begun by then never
    does. Dask runs a job again elsewhere when its worker dies, so a hook may run more than once.
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
        self._why: str | None = "the pool is not open"
        self._has_tried = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._cancels: set[asyncio.Task[Any]] = set()
        _quiet()

    async def aopen(self) -> None:
        """Connect. Returns after a moment also when there is no cluster: it is tried on."""
        self._why = _AWAY
        self._has_tried.clear()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"connection to the cluster of pool {self.name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._has_tried.wait()
        for _ in range(self.counters.workers):
            self._admission.offer(object())

    async def aclose(self) -> None:
        """Leave the cluster. Jobs that run fail with ComputePoolDown."""
        self._why = "the gateway is stopping"
        self._refuse_waiting()
        if self._keeper is not None:
            # Again and again: dask's client loses a cancellation that comes while it gives up by itself.
            while not self._keeper.done():
                self._keeper.cancel()
                await asyncio.wait((self._keeper,), timeout=_CLOSE_WITHIN_S)
            self._keeper = None
        if self._cancels:
            await asyncio.wait(set(self._cancels), timeout=_CLOSE_WITHIN_S)

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        """Run one job. Cancellation: it is taken from the cluster where it has not begun, and otherwise left to end unheard."""
        self._check()
        place = await self._admission.enter(job, clock)
        try:
            self._check()
            permit = self._breaker.allow(self._clock())
            if permit is None:
                raise self._down("the cluster has lost too many jobs")
            began = self._clock()
            outcome: Judgement = "ignore"
            try:
                reply = await self._on_cluster(job, clock)
                outcome = "success"
            except (WorkerLost, ComputePoolDown):
                outcome = "failure"
                raise
            finally:
                clock.run_s = self._clock() - began
                self.counters.run_s += clock.run_s
                self._breaker.record(self._clock(), permit, outcome, clock.run_s)
        finally:
            self._admission.offer(place)
            self._admission.leave(job.lane)
        if reply.kind is ReplyKind.VALUE:
            self.counters.done += 1
        else:
            self.counters.failed += 1
        return JobResult(settle(job, reply), clock.queue_s, clock.run_s)

    # ---------------------------------------------------------------------------------------------------------- jobs

    def _check(self) -> None:
        """Raise ComputePoolDown when there is nothing to send a job to."""
        if self._client is None or self._why is not None:
            raise self._down(self._why or _AWAY)
        if not self._breaker.would_allow(self._clock()):
            raise self._down("the cluster has lost too many jobs")

    def _down(self, why: str) -> ComputePoolDown:
        self.counters.rejected += 1
        return ComputePoolDown(why, retry_after_s=max(1.0, self._breaker.retry_after_s(self._clock())))

    async def _on_cluster(self, job: Job, clock: JobTimings) -> JobReply:
        assert self._client is not None
        clock.attempts = 1
        future: Future[Any] | None = None
        result: asyncio.Task[Any] | None = None
        try:
            # The hook's name in front lets the scheduler learn how long each hook takes.
            future = self._client.submit(call_hook, job.hook, job.input, key=f"{job.hook}-{uuid4().hex}", pure=False)
            # A task of its own, so that our deadline does not hang on how dask's client takes a cancellation.
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
            logger.error("hook %s of step %s: every worker of the cluster that it was given to died", job.hook, job.lane)
            raise WorkerLost("the workers of the cluster that ran it died", may_be_processed=True) from None
        except (FutureCancelledError, OSError):
            raise self._lost(job, _LOST) from None
        except Exception as error:  # whatever stands between the cluster and a reply: most often code that its workers do not have
            self.counters.lost += 1
            logger.exception("hook %s of step %s: the cluster could not run it", job.hook, job.lane)
            raise WorkerLost(f"the cluster could not run it: {type(error).__name__}", may_be_processed=True) from error
        finally:
            if result is not None and not result.done():
                result.cancel()
                self._keep_until_done(result)
            if future is not None and future.status != "finished":
                self._take_back(future)

    def _late(self, job: Job) -> ComputeTimeout | ComputePoolDown:
        """For a job whose time is over: the function's doing, unless there was no cluster to run it."""
        if self._why is not None:
            return self._lost(job, self._why)
        self.counters.timed_out += 1
        return ComputeTimeout("the function did not return in time", may_be_processed=True)

    def _lost(self, job: Job, why: str) -> ComputePoolDown:
        """For a job that the cluster had: whether it was run is not known."""
        self.counters.lost += 1
        logger.error("hook %s of step %s: %s", job.hook, job.lane, why)
        return ComputePoolDown(why, may_be_processed=True, retry_after_s=1.0)

    def _take_back(self, future: "Future[Any]") -> None:
        """Tell the scheduler that nobody waits for a job any more."""

        async def cancel() -> None:
            with suppress(Exception):  # the connection is gone, and with it the job
                await future.cancel(reason="nobody waits for it any more")  # type: ignore[no-untyped-call]

        self._keep_until_done(asyncio.get_running_loop().create_task(cancel()))

    def _keep_until_done(self, task: asyncio.Task[Any]) -> None:
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    # ---------------------------------------------------------------------------------------------------- connection

    async def _keep(self) -> None:
        """Connect, look after the connection until it breaks, and begin again; until it is cancelled."""
        wait_s = _BACKOFF_S
        is_told = False
        while True:
            client = await self._connect()
            if client is None:
                if not is_told:
                    logger.warning("compute backend %s: %s; it is tried again until it is there", self.name, _AWAY)
                is_told = True
                await asyncio.sleep(wait_s)
                wait_s = min(_LONGEST_BACKOFF_S, wait_s * 2)
                continue
            wait_s, is_told = _BACKOFF_S, False
            self._client = client
            try:
                await self._watch(client)
                logger.warning("compute backend %s: %s", self.name, _LOST)
            finally:
                self._client = None
                if self._why in (None, _IDLE):
                    self._why = _LOST
                self._refuse_waiting()
                await _close(client)

    async def _connect(self) -> Client | None:
        """A connected client; None when there is no cluster at the address."""
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
        except Exception as error:  # noqa: BLE001 - refused, no name, no answer, another protocol, no address at all, versions that do not fit
            logger.debug("compute backend %s: %s: %s", self.name, type(error).__name__, error)
            if client is not None:
                await _close(client)
            self._why = _AWAY
            self._has_tried.set()
            return None
        return client

    async def _watch(self, client: Client) -> None:
        """Return when the connection is broken, or the scheduler does not answer."""
        while client.status == "running":
            try:
                async with asyncio.timeout(_PING_WITHIN_S):
                    threads = await client.nthreads()  # type: ignore[no-untyped-call]
            except asyncio.CancelledError:
                raise
            except Exception:  # noqa: BLE001 - however the scheduler fails to answer
                return
            self._tell(_IDLE if not threads else None)
            self._has_tried.set()
            until = self._clock() + _PING_EVERY_S
            # Dask has no event for a broken connection, only a status.
            while client.status == "running" and self._clock() < until:  # noqa: ASYNC110
                await asyncio.sleep(_PING_EVERY_S / 10)

    def _tell(self, why: str | None) -> None:
        if why != self._why:
            if why is None:
                logger.info("compute backend %s: the cluster is there", self.name)
            else:
                logger.warning("compute backend %s: %s", self.name, why)
        self._why = why
        if why is not None:
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        why = self._why or _LOST
        self._admission.refuse_waiting(lambda: ComputePoolDown(why, retry_after_s=1.0))


async def _close(client: Client) -> None:
    """Close a client, whatever state it is in. Its own farewell may hang on a connection that is gone."""
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_WITHIN_S):
            await client.close(timeout=_CLOSE_WITHIN_S)  # type: ignore[no-untyped-call]


def _quiet() -> None:
    """Dask says on stderr what we say in our own log, and warns of jobs above 10 MB, which are ours to send."""
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
