"""The bulkhead: caps how many attempts run at once against one upstream, and lets a bounded number of others wait their turn.

It is a semaphore of our own, because it must do what asyncio's cannot: reject at once when the queue is full, change its limit while it
runs, let required calls go before optional ones under pressure, and cost nothing when nobody waits. It does not know why the limit is
what it is: that is the business of `anabranch.core.limit`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from anabranch.core.exchange import Answer
from anabranch.core.limit import FixedLimit, Limit, LimitSignal
from anabranch.errors import ConnectTimeout, DeadlineExceeded, QueueFull, QueueTimeout, RejectedError, StepError, UpstreamTimeout
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent

# What a caller who was turned away is told by Retry-After: queues are drained or overfull within about that time.
RETRY_AFTER_S: Final = 1.0
_OVERLOAD_STATUSES: Final = frozenset((429, 503, 504))

# A waiter's future: its result is the place; its exception says why it gets none.
_Waiter = asyncio.Future[None]


class Bulkhead:
    """The places of one upstream and the queue for them.

    `limit.limit` places; at most `queue` calls wait, each at most `queue_timeout_s` (None: until its own deadline).

    Who is next: the one that waits longest. Under pressure, which is while more than half of the queue is taken, required calls go
    before optional ones; and when the queue is full, a required call takes the place of the optional one that came last, which is
    rejected. So optional steps are shed first and required ones keep the capacity.

    Cancellation: a waiter leaves the queue; one that was just handed a place passes it on. No place is ever lost.
    """

    __slots__ = ("_in_use", "_limit", "_loop", "_optional", "_queue", "_queue_timeout_s", "_required", "_ticket")

    def __init__(self, limit: Limit, *, queue: int, queue_timeout_s: float | None) -> None:
        self._limit = limit
        self._queue = queue
        self._queue_timeout_s = queue_timeout_s
        self._in_use = 0
        self._ticket = 0
        # Oldest first, with the number of its arrival. Linked lists, so that leaving from the middle is O(1) too.
        self._required: OrderedDict[_Waiter, int] = OrderedDict()
        self._optional: OrderedDict[_Waiter, int] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        return self._limit.limit

    @property
    def in_use(self) -> int:
        """How many run. More than `limit` for a while after an adaptive limit has shrunk."""
        return self._in_use

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._required) + len(self._optional)

    def try_acquire(self) -> bool:
        """Take a place if one is free. Never waits, and overtakes nobody: a place that becomes free is handed to a waiter at once."""
        if self._in_use < self._limit.limit:
            self._in_use += 1
            return True
        return False

    async def acquire(self, *, now: float, deadline: float, is_required: bool) -> None:
        """Take a place, waiting for it if need be. Every success is followed by exactly one `release`.

        Raises QueueFull at once when nobody else may wait, QueueTimeout after `queue_timeout_s`, DeadlineExceeded when `deadline`
        (loop time, like `now`) passes first.
        """
        if self.try_acquire():
            return
        if deadline <= now:
            raise DeadlineExceeded("no time was left to wait for a place")
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
            timer = loop.call_at(now + self._queue_timeout_s, self._give_up, line, waiter, _queue_timeout)
        else:
            timer = loop.call_at(deadline, self._give_up, line, waiter, _deadline_exceeded)
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
        """Give a place back; it goes to the next waiter."""
        self._in_use -= 1
        if self._required or self._optional:
            self.serve()

    def serve(self) -> None:
        """Hand the free places to waiters. Called by `release`; call it too when the limit has grown without one."""
        while self._in_use < self._limit.limit and (self._required or self._optional):
            waiter, _ = self._next_line().popitem(last=False)
            # One that was cancelled a moment ago still stands here until its task runs.
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
        """Make the optional waiter that came last leave the full queue for a required call; raise QueueFull when that is not possible."""
        while is_required and self._optional:
            waiter, _ = self._optional.popitem()
            if not waiter.done():
                waiter.set_exception(QueueFull("a required call took its place in the full queue", retry_after_s=RETRY_AFTER_S))
                return
            if self.queued < self._queue:
                return
        raise QueueFull("all places are taken and the queue for them is full", retry_after_s=RETRY_AFTER_S)

    @staticmethod
    def _give_up(line: "OrderedDict[_Waiter, int]", waiter: _Waiter, reason: Callable[[], RejectedError]) -> None:
        if not waiter.done():
            del line[waiter]
            waiter.set_exception(reason())


def _queue_timeout() -> RejectedError:
    return QueueTimeout("no place became free in time", retry_after_s=RETRY_AFTER_S)


def _deadline_exceeded() -> RejectedError:
    return DeadlineExceeded("the deadline passed while the call waited for a place")


class BulkheadLayer:
    """Runs each attempt in a place of the bulkhead. `bulkhead`: for whoever wants to see how full it is."""

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

    async def __call__(self, call: Call) -> Answer:
        bulkhead = self.bulkhead
        if not bulkhead.try_acquire():
            await self._wait(call)
        if self._is_adaptive:
            return await self._sampled(call)
        try:
            return await self._next(call)
        finally:
            bulkhead.release()

    async def _wait(self, call: Call) -> None:
        began = self._clock()
        try:
            await self.bulkhead.acquire(now=began, deadline=call.deadline, is_required=call.is_required)
        except RejectedError as error:
            self._account(call, began, "reject", error.code)
            raise
        self._account(call, began, "queue", "")

    def _account(self, call: Call, began: float, kind: Literal["queue", "reject"], reason: str) -> None:
        waited_s = self._clock() - began
        call.queue_s += waited_s
        if call.notes is not None:
            call.notes.append(f"{reason or 'queued'} after {waited_s * 1000:.1f} ms in the queue")
        if self._observer is not None:
            self._observer(
                PolicyEvent(
                    upstream=self._upstream, kind=kind, reason=reason, queue_s=waited_s, attempt=call.attempts + 1, address=call.address
                )
            )

    async def _sampled(self, call: Call) -> Answer:
        """Run the attempt and report it to the adaptive limit."""
        began = self._clock()
        outcome: LimitSignal = "ignore"
        try:
            answer = await self._next(call)
        except StepError as error:
            # Only what tells of overload: a reset or a bad certificate says nothing about how much the upstream can take.
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
            self._limit.sample(now, now - began, self.bulkhead.in_use, outcome)
            self.bulkhead.release()
            if self._observer is not None and self._limit.limit != before:
                self._observer(PolicyEvent(upstream=self._upstream, kind="limit", reason=str(self._limit.limit)))
