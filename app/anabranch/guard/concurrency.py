"""Admission control: caps concurrent requests, for the gateway or one endpoint, and rejects the rest with 503.

Rejection must be cheap under overload. Decided from the request head, before the body is read. Not built when no limit is set. Slots and
queue are those of a `Bulkhead`.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, Literal, Protocol

from anabranch.core.limit import FixedLimit
from anabranch.core.metric import Sample, metric
from anabranch.engine.request import ClientRequest
from anabranch.errors import Overloaded, RejectedError
from anabranch.guard.guarding import Guarding
from anabranch.plan.model import EndpointPlan
from anabranch.policy.bulkhead import RETRY_AFTER_S, Bulkhead

RETRY_AFTER: Final = str(math.ceil(RETRY_AFTER_S))
AT_LIMIT: Final = "the limit of concurrent requests is reached"


def at_limit() -> Overloaded:
    """The rejection of a request that gets no slot."""
    return Overloaded(AT_LIMIT, headers={"retry-after": RETRY_AFTER})


class _Backlog(Protocol):
    """Connections whose next request waits for a slot and has not been parsed yet."""

    def __len__(self) -> int: ...

    def serve(self) -> None: ...

    def admit_next(self) -> bool: ...


class Gate:
    """Admits `limit` concurrent requests. At most `waiting` more wait for a slot, each for at most `wait_s` seconds.

    `endpoint`: "" for the whole gateway. `admitted`: requests so far that got a slot after waiting. `shed`: requests so far that were rejected.
    """

    __slots__ = ("_backlog", "_is_turn_of_backlog", "_limit", "admitted", "bulkhead", "endpoint", "shed", "try_enter", "wait_s", "waiting")

    def __init__(self, endpoint: str = "", *, limit: int, waiting: int, wait_s: float) -> None:
        self.endpoint = endpoint
        self.bulkhead = Bulkhead(FixedLimit(limit), queue=waiting, queue_timeout_s=wait_s)
        self.waiting = waiting
        self.wait_s = wait_s
        self.admitted = 0
        self.shed = 0
        self.try_enter: Callable[[], bool] = self.bulkhead.try_acquire
        """Acquire a slot if one is free; True if it did, and then `leave` must follow."""
        self._limit = limit
        self._backlog: _Backlog | None = None
        self._is_turn_of_backlog = False

    @property
    def is_full(self) -> bool:
        return self.bulkhead.in_use >= self._limit

    @property
    def queued(self) -> int:
        """Requests that wait for a slot, parsed or not."""
        return self.bulkhead.queued + (0 if self._backlog is None else len(self._backlog))

    def attach(self, backlog: _Backlog) -> None:
        """Share the slots with the unparsed requests in `backlog`.

        While parsed and unparsed requests wait, slots go to them in turn, so that clients which pipeline requests cannot take all of them.
        """
        self._backlog = backlog

    async def enter(self) -> None:
        """Acquire a slot, waiting if necessary; `leave` must follow. Raises Overloaded. Cancellation removes the request from the queue."""
        if self.try_enter():
            return
        try:
            await self.bulkhead.acquire(now=monotonic(), deadline=math.inf, is_required=True)
        except RejectedError as error:
            self.shed += 1
            raise at_limit() from error
        except asyncio.CancelledError:
            self._serve_backlog()  # a slot handed over just before the cancellation is free again
            raise
        self.admitted += 1

    def leave(self) -> None:
        """Release the slot, or hand it to the next waiting request."""
        backlog = self._backlog
        if backlog is not None and len(backlog) and self.bulkhead.queued:
            self._is_turn_of_backlog = not self._is_turn_of_backlog
            if not self._is_turn_of_backlog and backlog.admit_next():
                return
        self.bulkhead.release()
        self._serve_backlog()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        endpoint = self.endpoint
        yield Sample(GATE_IN_USE, (endpoint,), self.bulkhead.in_use)
        yield Sample(GATE_QUEUED, (endpoint,), self.queued)
        yield Sample(GATE_LIMIT, (endpoint,), self.bulkhead.limit)
        yield Sample(GATE_SHED, (endpoint,), self.shed)

    def _serve_backlog(self) -> None:
        backlog = self._backlog
        if backlog is not None and len(backlog):
            backlog.serve()


GATE_IN_USE: Final = metric(
    "gauge",
    "gate_in_use",
    "endpoint",
    "Requests in flight that count against a concurrency limit. `endpoint`: empty for the whole gateway.",
)
GATE_QUEUED: Final = metric("gauge", "gate_queued", "endpoint", "Requests waiting for a slot of the concurrency limit.")
GATE_LIMIT: Final = metric("gauge", "gate_limit", "endpoint", "Slots of the concurrency limit.")
GATE_SHED: Final = metric(
    "counter", "gate_shed", "endpoint",
    "Requests rejected with 503 by the concurrency limit. Those rejected by the limit of the whole gateway are in no other metric.",
)  # fmt: skip


class ConcurrencyGuard:
    """Holds a slot of its endpoint's gate for each request, until the request ends."""

    __slots__ = ("gate",)
    stage: Literal["head"] = "head"

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    async def __call__(self, request: ClientRequest) -> None:
        await self.gate.enter()
        request.on_end(self.gate.leave)

    def samples(self) -> Iterator[Sample]:
        return self.gate.samples()


def build(plan: EndpointPlan, guarding: Guarding) -> ConcurrencyGuard | None:
    """The guard of an endpoint with `max_requests`. As many requests again may wait, for a quarter of the deadline at most."""
    limit = plan.max_requests
    return None if limit is None else ConcurrencyGuard(Gate(plan.name, limit=limit, waiting=limit, wait_s=plan.timeout_s / 4))
