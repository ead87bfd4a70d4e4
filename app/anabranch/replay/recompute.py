"""Compute steps of a replay: the functions as they are now, on this machine, with time enough.

A function that a cluster runs for the gateway runs in a process here: nothing is called over a network. What ended a step because of the
time or the place then ends it again. Knows pools and recordings; nothing of requests.
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

_PATIENCE_S: Final = 60.0
"""Least time that a function gets, whatever the document gives it: a replay says nothing about time, but one that never returns must end."""

_ROOM: Final = 1 << 20
"""More jobs than a request has steps."""


@asynccontextmanager
async def local_pools(plans: Mapping[str, PoolPlan]) -> AsyncIterator[Mapping[str, ComputePool]]:
    """The pools of a document, open, and none of them anywhere else."""
    local = {name: replace(plan, backend=_patient(plan.backend)) for name, plan in plans.items()}
    async with ComputePools(local) as opened:
        yield opened.pools


def _patient(backend: ComputeBackend) -> ComputeBackend:
    """On this machine, and without refusing anybody: jobs that came one after the other then may all come at once now."""
    if backend.kind == "dask":
        backend = ComputeBackend(kind="process")
    return backend.model_copy(update={"queue": _ROOM, "queue_timeout_s": None})


class RecordedPool:
    """A pool in a replay. `recording`: gives that of the request that is run just now."""

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

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        """As any pool does. Cancellation: as of the pool behind it."""
        patient = replace(job, deadline=max(job.deadline, monotonic() + _PATIENCE_S))
        return await self._recording().compute(job.step, job.input, lambda: self._pool.run(patient, clock))

    async def aopen(self) -> None:
        """The pool behind it is open."""

    async def aclose(self) -> None:
        """The pool behind it is closed by whoever opened it."""
