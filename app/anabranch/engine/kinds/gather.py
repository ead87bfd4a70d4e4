"""Gathers the keys of different requests into one call (`batch: {window: ...}`).

Whoever brings the first key opens a call, and it is sent when its window closes or it is full. Requests share a call only if it would be the same for each of
them but for the keys. It belongs to those who wait for it: when the last one goes, the call is cancelled and its end awaited.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from anabranch.core.tasks import cancel_and_wait
from anabranch.engine.operation import Operation
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.errors import StepError, UpstreamTimeout
from anabranch.jsontext.frame import Frame
from anabranch.plan.each import BatchPlan
from anabranch.plan.model import StepPlan


class Gatherer:
    """The calls of one step that are open for further keys. `same`: equal for requests that may share a call."""

    __slots__ = ("_batch", "_inner", "_open", "_same", "_step")

    def __init__(self, step: StepPlan, batch: BatchPlan, inner: Operation, same: Callable[[Frame, ClientRequest], object]) -> None:
        self._step = step
        self._batch = batch
        self._inner = inner
        self._same = same
        self._open: dict[object, SharedCall] = {}

    def join(
        self, request: ClientRequest, frame: Frame, keys: dict[bytes, bytes], deadline: float
    ) -> list[tuple["SharedCall", list[bytes]]]:
        """The calls that ask for these keys, each with its part of them. The caller waits for every one of them. `keys`: JSON text by what is
        compared."""
        same = self._same(frame, request)
        parts: dict[SharedCall, list[bytes]] = {}
        for plain, key in keys.items():
            call = self._open.get(same)
            if call is None:
                call = self._open[same] = SharedCall(self, same, request, frame.copy(), Outcome(self._step.name, self._step.upstream))
            call.keys[plain] = key
            call.deadline = max(call.deadline, deadline)
            parts.setdefault(call, []).append(plain)
            if len(call.keys) >= self._batch.size:
                call.send()
        return list(parts.items())

    @property
    def window_s(self) -> float:
        return self._batch.window_s or 0.0

    def close(self, same: object, call: "SharedCall") -> None:
        """Give the call no further keys."""
        if self._open.get(same) is call:
            del self._open[same]

    async def run(self, call: "SharedCall") -> bytes:
        """The answer for the keys of a call. Raises StepError and LeftOut."""
        self._batch.fill(b"[" + b",".join(call.keys.values()) + b"]", call.frame)
        return await self._inner(call.request, call.outcome, call.frame, call.deadline)


class SharedCall:
    """One call for the keys of several requests. `request`, `frame`: of the first of them. `outcome`: of the call, when it has ended."""

    __slots__ = ("_answer", "_gatherer", "_same", "_task", "_timer", "_waiting", "deadline", "frame", "keys", "outcome", "request")

    def __init__(self, gatherer: Gatherer, same: object, request: ClientRequest, frame: Frame, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        self.request = request
        self.frame = frame
        self.outcome = outcome
        self.deadline = 0.0
        self.keys: dict[bytes, bytes] = {}
        self._gatherer = gatherer
        self._same = same
        self._answer: asyncio.Future[bytes] = loop.create_future()
        self._answer.add_done_callback(_see)
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(gatherer.window_s, self.send)
        self._waiting = 0

    def send(self) -> None:
        """Close the call to further keys, and send it."""
        self._timer.cancel()
        self._gatherer.close(self._same, self)
        self._task = asyncio.ensure_future(self._run())

    async def wait(self, deadline: float) -> bytes:
        """The answer, as JSON text. Raises the StepError of the call, and UpstreamTimeout at `deadline`."""
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._answer)
        except TimeoutError:
            raise UpstreamTimeout("the deadline passed before the call for several requests was answered") from None
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._timer.cancel()
                self._gatherer.close(self._same, self)
                if self._task is not None:
                    await cancel_and_wait([self._task])

    async def _run(self) -> None:
        outcome = self.outcome
        began = perf_counter()
        try:
            outcome.raw = await self._gatherer.run(self)
        except StepError as error:
            outcome.failure = error
            self._answer.set_exception(error)
        except Exception as error:  # noqa: BLE001 - LeftOut, or a bug of ours: for all who wait
            self._answer.set_exception(error)
        else:
            self._answer.set_result(outcome.raw)
        finally:
            outcome.elapsed_s = perf_counter() - began


def _see(answer: "asyncio.Future[bytes]") -> None:
    """Whoever waited may have gone: then nobody else asks for the failure."""
    if not answer.cancelled():
        answer.exception()
