"""The compute pools of one document: built, opened and closed with it. A document without compute steps has none."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Final, Self

from anabranch.compute.job import ComputePool
from anabranch.compute.processes.pool import ProcessPool
from anabranch.compute.threads import ThreadPool
from anabranch.core.metric import Sample
from anabranch.errors import MissingExtraError, StartError
from anabranch.plan.model import PoolPlan

STALL_S: Final = 0.05
_LOST_AFTER_S: Final = 60.0
DASK_JOBS: Final = 64
"""Default number of jobs on a cluster at once. The cluster decides how many of them run."""

PoolMaker = Callable[[PoolPlan], ComputePool]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_pool(plan: PoolPlan, *, stall_s: float = STALL_S) -> ComputePool:
    """The pool of a plan, not opened yet. `stall_s`: an async hook that blocks the event loop for longer is logged.

    Raises MissingExtraError.
    """
    backend = plan.backend
    workers = backend.workers or processors()
    if backend.kind == "thread":
        return ThreadPool(plan.name, workers=workers, queue=backend.queue, queue_timeout_s=backend.queue_timeout_s, stall_s=stall_s)
    if backend.kind == "process":
        return ProcessPool(
            plan.name,
            plan.hooks,
            workers=workers,
            queue=backend.queue,
            queue_timeout_s=backend.queue_timeout_s,
            recycle_after=backend.recycle_after,
            max_memory_bytes=backend.max_memory,
        )
    assert backend.address is not None
    try:
        from anabranch.compute.dask import DaskPool  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a compute backend of kind {backend.kind}", backend.kind) from error
    return DaskPool(
        plan.name,
        backend.address,
        workers=backend.workers or DASK_JOBS,
        queue=backend.queue,
        queue_timeout_s=backend.queue_timeout_s,
    )


class ComputePools:
    """An async context manager that opens and closes the pools. `pools`: by name; they accept jobs while the context is open. Raises StartError
    when a pool cannot start any of its processes."""

    def __init__(self, plans: Mapping[str, PoolPlan], *, make: PoolMaker = make_pool) -> None:
        self.pools: dict[str, ComputePool] = {name: make(plan) for name, plan in plans.items()}
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for pool in self.pools.values():
                exits.push_async_callback(pool.aclose)
                await pool.aopen()
            if (reason := self.trouble()) is not None:
                raise StartError(reason)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def trouble(self) -> str | None:
        """Why compute steps cannot run in this process, as a sentence; None when they can."""
        return next((f"no process of the compute pool {name} can be started; the log says why" for name, _ in self._down()), None)

    def lost(self) -> str | None:
        """As `trouble`, once it has lasted for so long that only a new gateway process can help."""
        return next((f"no process of the compute pool {name} could be started for {down_s:.0f} s" for name, down_s in self._down()
                     if down_s > _LOST_AFTER_S), None)  # fmt: skip

    def _down(self) -> Iterator[tuple[str, float]]:
        for name, pool in self.pools.items():
            if isinstance(pool, ProcessPool) and pool.down_for_s is not None:
                yield name, pool.down_for_s

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for name, pool in self.pools.items():
            yield from pool.counters.samples(name)
