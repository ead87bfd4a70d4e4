"""JSON that is too large for the event loop, read and merged in a worker process. Started by the first such body, and not before.

A gateway that never sees a large body has no process for it. When no worker is to be had, the loop does the work itself, late rather than not.
"""

import asyncio
from typing import Final

from anabranch.compute.job import Job, JobTimings
from anabranch.compute.pools import processors
from anabranch.compute.processes.pool import ProcessPool
from anabranch.errors import ComputeTimeout, DeadlineExceeded, RejectedError, UpstreamTimeout, WorkerLost
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.order import MERGE_FROM, PLAIN_FROM, pack_values, settle_reading
from anabranch.plan.model import EndpointPlan, StepPlan

_HOOK: Final = "anabranch.jsontext.order:carry_out"

_MOST_WORKERS: Final = 4
_QUEUE: Final = 64
_RECYCLE_AFTER: Final = 10_000
_MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024


class Offload:
    """Owned by a service, and closed with it. Without a large body it does nothing at all."""

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._opening: asyncio.Task[ProcessPool] | None = None
        self._is_closed = False

    @property
    def is_started(self) -> bool:
        return self._opening is not None

    async def aclose(self) -> None:
        """Stop the workers. Bodies that are being read are read on the loop instead."""
        self._is_closed = True
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        if self._pool is not None:
            await self._pool.aclose()

    async def read(self, step: StepPlan, body: bytes, frame: Frame, deadline: float) -> bytes:
        """As `step.read`, elsewhere. Raises UpstreamTimeout too: the time of the step goes on while its answer is read."""
        reading = step.reading
        if reading is None or len(body) < reading.from_bytes:
            return step.read(body, frame)
        reply = await self._run(reading.order, body, step.name, deadline)
        return step.read(body, frame) if reply is None else settle_reading(reading, body, reply, frame)

    async def assemble(self, plan: EndpointPlan, values: list[bytes], frame: Frame, deadline: float) -> bytes:
        """As `plan.response.assemble`, elsewhere where it is worth it."""
        response = plan.response
        size_bytes = sum(len(values[index]) for index in response.visible)
        if size_bytes < (MERGE_FROM if response.merge_order else PLAIN_FROM):
            return response.assemble(values, frame)
        if not response.merge_order:
            # Only placed, not understood: one join, for which Python lets the GIL go.
            return await asyncio.to_thread(response.assemble, values, frame)
        payload = await asyncio.to_thread(pack_values, [values[index] for index in response.visible])
        reply = await self._run(response.merge_order, payload, plan.name, deadline)
        return response.assemble(values, frame) if reply is None else reply

    async def _run(self, order: str, payload: bytes, name: str, deadline: float) -> bytes | None:
        """What the worker answers; None when there was none for it."""
        try:
            pool = await self._opened()
            job = Job(hook=f"{_HOOK}={order}", input=payload, deadline=deadline, step=name, lane="json")
            return (await pool.run(job, JobTimings())).value
        except (ComputeTimeout, DeadlineExceeded):
            raise UpstreamTimeout("the time ran out while the answer was being read", may_be_processed=True) from None
        except (WorkerLost, RejectedError, OSError):
            return None

    async def _opened(self) -> ProcessPool:
        if self._pool is not None:
            return self._pool
        if self._opening is None:
            if self._is_closed:
                raise OSError("closed")
            self._opening = asyncio.get_running_loop().create_task(self._open())
        # Shielded: whoever waits with us must not lose the pool to our cancellation.
        try:
            return await asyncio.shield(self._opening)
        except OSError:
            self._opening = None  # the next one may have more luck
            raise

    async def _open(self) -> ProcessPool:
        pool = ProcessPool(
            "json",
            (_HOOK,),
            workers=max(1, min(_MOST_WORKERS, processors() - 1)),
            queue=_QUEUE,
            queue_timeout_s=None,
            recycle_after=_RECYCLE_AFTER,
            max_memory_bytes=_MAX_MEMORY_BYTES,
        )
        await pool.aopen()
        self._pool = pool
        return pool
