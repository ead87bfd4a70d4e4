"""Reads and merges large JSON, and reads large bodies of other formats, in worker processes, so that it does not block the event loop.

The first large body starts the workers; a gateway that never gets one has none. If no worker is available, the work is done on the loop, or in a
thread where that helps.
"""

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, Protocol, Self

from anabranch.compute.job import Job, JobTimings
from anabranch.compute.pools import processors
from anabranch.compute.processes.pool import ProcessPool
from anabranch.core.exchange import Answer
from anabranch.errors import ComputeTimeout, DeadlineExceeded, InvalidFormat, ProcessingTimeout, RejectedError, WorkerLost
from anabranch.formats.order import pack, settle
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.join import Join, join
from anabranch.jsontext.order import MERGE_FROM, PLAIN_FROM, Reading, pack_values, settle_reading
from anabranch.plan.decoding import Decoding, content_type
from anabranch.plan.model import EndpointPlan

_HOOK: Final = "anabranch.jsontext.order:carry_out"
_DECODE_HOOK: Final = "anabranch.formats.order:carry_out"

_MOST_WORKERS: Final = 4
_QUEUE: Final = 64
_RECYCLE_AFTER: Final = 10_000
_MAX_MEMORY_BYTES: Final = 512 * 1024 * 1024


class Readable(Protocol):
    """What reads a body: a step, or a condition on it. The members as of `StepPlan`."""

    @property
    def name(self) -> str: ...

    @property
    def read(self) -> Callable[[bytes, Frame], bytes]: ...

    @property
    def reading(self) -> Reading | None: ...


class Offload:
    """An async context manager. Starts nothing until the first large body."""

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._opening: asyncio.Task[ProcessPool] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the workers. Bodies that they are reading are read on the loop instead."""
        self._is_closed = True
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        if self._pool is not None:
            await self._pool.aclose()

    def notes(self) -> Iterator[str]:
        """What readiness says of workers that cannot be started. It does not affect readiness: the work is done on the loop."""
        if self._pool is not None and self._pool.down_for_s is not None:
            yield "large answers are read on the event loop, which delays other requests, because no process can be started for them; see the log"

    async def read(self, step: Readable, body: bytes, frame: Frame, deadline: float) -> bytes:
        """Like `step.read`, in a worker process. May also raise ProcessingTimeout: reading counts towards the step's deadline."""
        reading = step.reading
        if reading is None or len(body) < reading.from_bytes:
            return step.read(body, frame)
        reply = await self._run(reading.order, body, step.name, deadline, "a large answer was read")
        return step.read(body, frame) if reply is None else settle_reading(reading, body, reply, frame)

    async def join(self, rule: Join, order: str, left: bytes, right: bytes, name: str, deadline: float) -> bytes:
        """Like `jsontext.join.join`, in a worker process. `order`: the rule as one. `name`: of the step. Raises ProcessingTimeout."""
        payload = await asyncio.to_thread(pack_values, [left, right])
        reply = await self._run(order, payload, name, deadline, "large lists were joined")
        return join(left, right, rule) if reply is None else reply

    async def assemble(self, plan: EndpointPlan, values: list[bytes], frame: Frame, deadline: float) -> bytes:
        """Like `plan.response.assemble`, but off the loop if the response is large. Raises ProcessingTimeout."""
        response = plan.response
        size_bytes = sum(len(values[index]) for index in response.merged)
        if size_bytes < (MERGE_FROM if response.merge_order else PLAIN_FROM):
            return response.assemble(values, frame)
        if not response.merge_order:
            # Placed without parsing: one join, during which Python releases the GIL.
            return await asyncio.to_thread(response.assemble, values, frame)
        payload = await asyncio.to_thread(pack_values, [values[index] for index in response.merged])
        reply = await self._run(response.merge_order, payload, plan.name, deadline, "large answers were merged")
        return response.assemble(values, frame) if reply is None else reply

    async def decode(self, decoding: Decoding, answer: Answer, step: str, deadline: float) -> bytes:
        """Like `decoding.read`, in a worker process. May also raise ProcessingTimeout, and InvalidFormat for a body that ends its process: no parser
        that it has crashed may meet it in this one."""
        media_type = content_type(answer)
        try:
            reply = await self._work(_DECODE_HOOK, decoding.order, pack(answer.body, media_type), step, deadline, "a large answer was read")
        except WorkerLost:
            raise InvalidFormat("the process that read the body has crashed", may_be_processed=True) from None
        if reply is not None:
            return settle(reply)
        try:
            async with asyncio.timeout(deadline - monotonic()):
                return await asyncio.to_thread(decoding.read, answer.body, media_type)
        except TimeoutError:
            raise ProcessingTimeout("the deadline passed while a large answer was read", may_be_processed=True) from None

    async def _run(self, order: str, payload: bytes, name: str, deadline: float, work: str) -> bytes | None:
        """The worker's result; None if no worker was available or it died. `work`: what it does, for people. Raises ProcessingTimeout."""
        try:
            return await self._work(_HOOK, order, payload, name, deadline, work)
        except WorkerLost:
            return None

    async def _work(self, hook: str, order: str, payload: bytes, name: str, deadline: float, work: str) -> bytes | None:
        """The worker's result; None if no worker was available. Raises ProcessingTimeout and WorkerLost."""
        try:
            pool = await self._opened()
            job = Job(hook=hook, order=order, input=payload, deadline=deadline, step=name, lane="json")
            return (await pool.run(job, JobTimings())).value
        except (ComputeTimeout, DeadlineExceeded):
            raise ProcessingTimeout(f"the deadline passed while {work}", may_be_processed=True) from None
        except WorkerLost:
            raise
        except (RejectedError, OSError):
            return None

    async def _opened(self) -> ProcessPool:
        if self._pool is not None:
            return self._pool
        if self._opening is None:
            if self._is_closed:
                raise OSError("closed")
            self._opening = asyncio.get_running_loop().create_task(self._open())
        # Shielded: cancelling this caller must not cancel the start for the others.
        try:
            return await asyncio.shield(self._opening)
        except OSError:
            self._opening = None  # the next large body tries again
            raise

    async def _open(self) -> ProcessPool:
        pool = ProcessPool(
            "json",
            (_HOOK, _DECODE_HOOK),
            workers=max(1, min(_MOST_WORKERS, processors() - 1)),
            queue=_QUEUE,
            queue_timeout_s=None,
            recycle_after=_RECYCLE_AFTER,
            max_memory_bytes=_MAX_MEMORY_BYTES,
        )
        await pool.aopen()
        self._pool = pool
        return pool
