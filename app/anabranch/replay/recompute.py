"""Compute pools for replay: current code, local executors, relaxed deadlines.

A function that a cluster runs for the gateway runs in a local process here; nothing is called over a network. A recorded failure that came
from load or time limits is raised again. Must not know requests.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Final, Literal

from anabranch.compute.job import ComputePool, Job, JobResult, JobTimings, PoolCounters
from anabranch.compute.pools import ComputePools
from anabranch.config.compute import ComputeBackend
from anabranch.plan.model import PoolPlan
from anabranch.replay.recording import Recording

_MIN_TIME_S: Final = 60.0
"""Minimum time for a function, whatever the document says. A replay does not judge time, but a function that never returns must end."""

_QUEUE: Final = 1 << 20
"""More jobs than a request has steps."""


@asynccontextmanager
async def local_pools(plans: Mapping[str, PoolPlan]) -> AsyncIterator[Mapping[str, ComputePool]]:
    """Open the pools of a document, all of them on this machine."""
    local = {name: replace(plan, backend=_local(plan.backend)) for name, plan in plans.items()}
    async with ComputePools(local) as opened:
        yield opened.pools


def _local(backend: ComputeBackend) -> ComputeBackend:
    """Return a local backend that rejects no job: jobs that came one after the other when recorded may now all come at once."""
    if backend.kind == "dask":
        backend = ComputeBackend(kind="process")
    return backend.model_copy(update={"queue": _QUEUE, "queue_timeout_s": None})


class RecordedPool:
    """A pool in a replay. `recording`: returns the recording of the request that is running."""

    def __init__(self, pool: ComputePool, recording: Callable[[], Recording]) -> None:
        self._pool = pool
        self._recording = recording

    @property
    def name(self) -> str:
        return self._pool.name

    @property
    def kind(self) -> Literal["thread", "process", "dask"]:
        return self._pool.kind

    @property
    def counters(self) -> PoolCounters:
        return self._pool.counters

    async def run(self, job: Job, timings: JobTimings) -> JobResult:
        """Run a job as any pool does. Cancellation: as in the wrapped pool."""
        relaxed = replace(job, deadline=max(job.deadline, monotonic() + _MIN_TIME_S))
        return await self._recording().compute(job.step, job.input, lambda: self._pool.run(relaxed, timings))

    async def aopen(self) -> None:
        """Does nothing: the wrapped pool is open."""

    async def aclose(self) -> None:
        """Does nothing: `local_pools` closes the wrapped pool."""
