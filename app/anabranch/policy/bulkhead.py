"""The bulkhead: a semaphore that caps concurrent attempts to one upstream, with a bounded queue.

asyncio's semaphore cannot do what this one must: reject at once when the queue is full, change its limit while in use, admit required
calls before optional ones under pressure, and cost nothing while the queue is empty. `anabranch.core.limit` computes the limit.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Literal

from anabranch.config.units import format_duration
from anabranch.core.exchange import Answer
from anabranch.core.limit import AIMDLimit, FixedLimit, GradientLimit, Limit, LimitSignal
from anabranch.core.metric import Sample, metric
from anabranch.errors import ConnectTimeout, DeadlineExceeded, QueueFull, QueueTimeout, RejectedError, StepError, UpstreamTimeout
from anabranch.plan.upstream import BulkheadPlan, UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools

# Retry-After of a rejection: within about this time a queue has either drained or overflowed.
RETRY_AFTER_S: Final = 1.0
_OVERLOAD_STATUSES: Final = frozenset((429, 503, 504))

# A waiting call's future: done when the call gets a slot; its exception is the reason for a rejection.
_Waiter = asyncio.Future[None]


BULKHEAD_IN_USE: Final = metric("gauge", "bulkhead_in_use", "upstream", "Slots in use: exchanges in flight.")
BULKHEAD_QUEUED: Final = metric("gauge", "bulkhead_queued", "upstream", "Calls waiting for a slot.")
BULKHEAD_LIMIT: Final = metric("gauge", "bulkhead_limit", "upstream", "Number of slots; varies if the limit is adaptive.")


class Bulkhead:
    """The slots of one upstream and the queue for them.

    There are `limit.limit` slots. At most `queue` calls wait, each at most `queue_timeout_s` (None: until its own deadline).

    The call that has waited longest is next. Under pressure, while more than half of the queue is in use, required calls go before
    optional ones. When the queue is full, a required call replaces the newest optional one, which is rejected. So optional steps are
    shed first and required ones keep the capacity.

    Cancellation: a waiting call leaves the queue; one that has just been granted a slot releases it. No slot is ever lost.
    """

    __slots__ = ("_in_use", "_limit", "_loop", "_optional", "_queue", "_queue_timeout_s", "_required", "_ticket")

    def __init__(self, limit: Limit, *, queue: int, queue_timeout_s: float | None) -> None:
        self._limit = limit
        self._queue = queue
        self._queue_timeout_s = queue_timeout_s
        self._in_use = 0
        self._ticket = 0
        # Oldest first, with its arrival number. Linked lists, so that removing from the middle is O(1) too.
        self._required: OrderedDict[_Waiter, int] = OrderedDict()
        self._optional: OrderedDict[_Waiter, int] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def limit(self) -> int:
        """How many attempts may run at once now."""
        return self._limit.limit

    @property
    def in_use(self) -> int:
        """How many attempts run now. Exceeds `limit` for a while after an adaptive limit has shrunk."""
        return self._in_use

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._required) + len(self._optional)

    def try_acquire(self) -> bool:
        """Acquire a slot if one is free. Never waits. Overtakes no waiting call, since a released slot is granted to one at once."""
        if self._in_use < self._limit.limit:
            self._in_use += 1
            return True
        return False

    async def acquire(self, *, now: float, deadline: float, is_required: bool) -> None:
        """Acquire a slot, waiting if necessary. The caller must call `release` exactly once after each success.

        Raises QueueFull at once if the queue is full, QueueTimeout after `queue_timeout_s`, DeadlineExceeded if `deadline` (loop time,
        like `now`) passes first.
        """
        if self.try_acquire():
            return
        if deadline <= now:
            raise DeadlineExceeded("no slot was free and the deadline had passed")
        if self.queued >= self._queue:
            self._make_room(is_required=is_required)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        line = self._required if is_required else self._optional
        self._ticket += 1
        line[waiter] = self._ticket
        if self._queue_timeout_s is not None and now + self._queue_timeout_s < deadline:
            timer = loop.call_at(now + self._queue_timeout_s, self._expire, line, waiter, _queue_timeout)
        else:
            timer = loop.call_at(deadline, self._expire, line, waiter, _deadline_exceeded)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release()
            else:
                line.pop(waiter, None)
            raise
        finally:
            timer.cancel()

    def release(self) -> None:
        """Release a slot; it is granted to the next waiting call."""
        self._in_use -= 1
        if self._required or self._optional:
            self.grant()

    def grant(self) -> None:
        """Grant free slots to waiting calls. `release` calls it; call it as well when the limit has grown without a release."""
        while self._in_use < self._limit.limit and (self._required or self._optional):
            waiter, _ = self._next_line().popitem(last=False)
            # A call that has just been cancelled stays in the queue until its task runs.
            if not waiter.done():
                self._in_use += 1
                waiter.set_result(None)

    def _next_line(self) -> "OrderedDict[_Waiter, int]":
        required, optional = self._required, self._optional
        if not optional:
            return required
        if not required:
            return optional
        if 2 * (len(required) + len(optional)) > self._queue:
            return required
        return required if required[next(iter(required))] < optional[next(iter(optional))] else optional

    def _make_room(self, *, is_required: bool) -> None:
        """Reject the newest optional call in the full queue in favour of a required one; raise QueueFull if that is not possible."""
        while is_required and self._optional:
            waiter, _ = self._optional.popitem()
            if not waiter.done():
                waiter.set_exception(QueueFull("displaced from the full queue by a required call", retry_after_s=RETRY_AFTER_S))
                return
            if self.queued < self._queue:
                return
        raise QueueFull("all slots are in use and the queue is full", retry_after_s=RETRY_AFTER_S)

    @staticmethod
    def _expire(line: "OrderedDict[_Waiter, int]", waiter: _Waiter, reason: Callable[[], RejectedError]) -> None:
        if not waiter.done():
            del line[waiter]
            waiter.set_exception(reason())


def _queue_timeout() -> RejectedError:
    return QueueTimeout("timed out waiting for a free slot", retry_after_s=RETRY_AFTER_S)


def _deadline_exceeded() -> RejectedError:
    return DeadlineExceeded("the deadline passed while waiting for a free slot")


class BulkheadLayer:
    """Runs each attempt in a slot of the bulkhead."""

    __slots__ = ("_clock", "_is_adaptive", "_limit", "_next", "_observer", "_upstream", "bulkhead")

    def __init__(
        self,
        next_: Policy,
        *,
        limit: Limit,
        queue: int,
        queue_timeout_s: float | None,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        self._next = next_
        self._limit = limit
        self._is_adaptive = not isinstance(limit, FixedLimit)
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self.bulkhead = Bulkhead(limit, queue=queue, queue_timeout_s=queue_timeout_s)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(BULKHEAD_IN_USE, (self._upstream,), self.bulkhead.in_use)
        yield Sample(BULKHEAD_QUEUED, (self._upstream,), self.bulkhead.queued)
        yield Sample(BULKHEAD_LIMIT, (self._upstream,), self.bulkhead.limit)

    async def __call__(self, call: Call) -> Answer:
        bulkhead = self.bulkhead
        if not bulkhead.try_acquire():
            await self._acquire(call)
        if self._is_adaptive:
            return await self._sampled(call)
        try:
            return await self._next(call)
        finally:
            bulkhead.release()

    async def _acquire(self, call: Call) -> None:
        began = self._clock()
        try:
            await self.bulkhead.acquire(now=began, deadline=call.deadline, is_required=call.is_required)
        except RejectedError as error:
            self._report(call, began, "reject", error.code)
            raise
        self._report(call, began, "queue", "")

    def _report(self, call: Call, began: float, kind: Literal["queue", "reject"], reason: str) -> None:
        waited_s = self._clock() - began
        call.queue_s += waited_s
        if call.notes is not None:
            call.notes.append(f"{reason or 'admitted'} after {waited_s * 1000:.1f} ms in the queue")
        if self._observer is not None:
            self._observer(
                PolicyEvent(
                    upstream=self._upstream, kind=kind, reason=reason, queue_s=waited_s, attempt=call.attempts + 1, address=call.address
                )
            )

    async def _sampled(self, call: Call) -> Answer:
        """Run the attempt and report it to the adaptive limit."""
        began = self._clock()
        waited_s = call.queue_s
        outcome: LimitSignal = "ignore"
        try:
            answer = await self._next(call)
        except StepError as error:
            # Only signs of overload count: a reset or a bad certificate says nothing about the upstream's capacity.
            if isinstance(error, UpstreamTimeout | ConnectTimeout):
                outcome = "dropped"
            raise
        else:
            if answer.status in _OVERLOAD_STATUSES:
                outcome = "dropped"
            elif answer.status < 500:
                outcome = "success"
            return answer
        finally:
            now = self._clock()
            before = self._limit.limit
            # Waiting for its turn under the upstream's rate says nothing about the upstream's capacity either.
            self._limit.sample(now, now - began - (call.queue_s - waited_s), self.bulkhead.in_use, outcome)
            self.bulkhead.release()
            if self._observer is not None and self._limit.limit != before:
                self._observer(PolicyEvent(upstream=self._upstream, kind="limit", reason=str(self._limit.limit)))


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> BulkheadLayer:
    slots = upstream.bulkhead
    return BulkheadLayer(
        next_,
        limit=_limit_of(slots, tools.random),
        queue=slots.queue,
        queue_timeout_s=slots.queue_timeout_s,
        clock=tools.clock,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str:
    slots = upstream.bulkhead
    limit = f"{slots.limit}" if slots.adaptive is None else f"{slots.limit} ({slots.adaptive}, {slots.minimum} to {slots.maximum})"
    wait = f" up to {format_duration(slots.queue_timeout_s)}" if slots.queue_timeout_s is not None else ""
    return f"bulkhead {limit} at once, {slots.queue} waiting{wait}"


def _limit_of(slots: BulkheadPlan, random: Callable[[], float]) -> Limit:
    if slots.adaptive == "gradient":
        return GradientLimit(slots.limit, minimum=slots.minimum, maximum=slots.maximum, random=random)
    if slots.adaptive == "aimd":
        return AIMDLimit(slots.limit, minimum=slots.minimum, maximum=slots.maximum)
    return FixedLimit(slots.limit)
