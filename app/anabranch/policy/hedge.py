"""Runs a second attempt beside a slow first one; the first good answer wins. Knows nothing of addresses or of why the first is slow."""

import asyncio
from collections.abc import Callable

from anabranch.core.budget import Budget
from anabranch.core.exchange import Answer
from anabranch.core.hedging import HedgeDelay
from anabranch.errors import StepError
from anabranch.policy.call import Call, Policy
from anabranch.policy.ending import end_task
from anabranch.policy.event import EventKind, Observer, PolicyEvent


class HedgeLayer:
    """Sends a second attempt of an idempotent call when the first one takes longer than `delay` says, and the budget allows it.

    A good answer is one below 500. When the first attempt to end is bad, the other one is waited for; when both are bad, the first
    attempt's failure is the call's. No second attempt begins when the deadline would pass first, nor while the first one still waits
    for a place in the bulkhead: then the upstream is full, and one more in its queue makes that worse. In the bulkhead the second attempt
    counts as optional, since it is an extra.

    The first attempt runs in the caller's own task, so a call that is quick enough costs a timer and no task. When the hedge wins, that
    task is interrupted as `asyncio.timeout` does it: cancelled, and the cancellation taken back here. The loser is awaited before the
    answer is returned. Cancellation from outside ends both.
    """

    __slots__ = ("_clock", "_delay", "_next", "_observer", "_upstream", "budget")

    def __init__(
        self,
        next_: Policy,
        *,
        delay: HedgeDelay,
        budget: Budget,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        self._next = next_
        self._delay = delay
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self.budget = budget

    async def __call__(self, call: Call) -> Answer:
        began = self._clock()
        self.budget.record(began)
        if not call.is_idempotent:
            return await self._next(call)
        queued_s = call.queue_s
        delay_s = self._delay.delay_s(began)
        race = None if delay_s is None or began + delay_s >= call.deadline else _Race(self, call, delay_s)
        try:
            first: Answer | StepError = await self._next(call)
        except asyncio.CancelledError:
            if race is None or not await race.is_won():
                raise
            self._learn(call, began, queued_s)
            return race.answer()
        except StepError as error:
            first = error
        except BaseException:
            if race is not None:
                await race.abandon()
            raise
        # Nothing is awaited from here to the end while there is no hedge.
        if is_good(first) or (isinstance(first, StepError) and first.is_timeout):
            self._learn(call, began, queued_s)
        if race is not None and await race.is_saved(first):
            return race.answer()
        if isinstance(first, Answer):
            return first
        try:
            raise first
        finally:
            # Its traceback holds this frame, which holds it: without this every failed call waits for the garbage collector.
            del first

    def _learn(self, call: Call, began: float, queued_s: float) -> None:
        """Tell the delay how long the first attempt took, or had taken when it lost. Time in the bulkhead's queue does not count."""
        now = self._clock()
        self._delay.add(now, max(now - began - (call.queue_s - queued_s), 0.0))

    def begin_second(self, call: Call, twin: Call) -> asyncio.Task[Answer] | None:
        """Begin the second attempt of `call` as `twin` in a task of its own. None when it must not begin."""
        now = self._clock()
        if now >= call.deadline:
            return None
        if not self.budget.try_spend(now):
            self.tell(call, "hedge_denied", "budget")
            return None
        call.is_hedged = True
        self.tell(call, "hedge", self._delay.label)
        return asyncio.get_running_loop().create_task(self._second(twin))

    async def _second(self, twin: Call) -> Answer:
        return await self._next(twin)

    def tell(self, call: Call, kind: EventKind, reason: str) -> None:
        """Write down what was done beside the first attempt of `call`."""
        if call.notes is not None:
            call.notes.append(kind.replace("_", " ") + (f" ({reason})" if reason else ""))
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind=kind, reason=reason, attempt=call.attempts, address=call.address))


class _Race:
    """The first attempt of a call, and its hedge if one begins. Made in the task that is about to run the first attempt."""

    __slots__ = (
        "_attempts", "_call", "_cancelling", "_delay_s", "_hedge", "_is_interrupted", "_is_over", "_layer", "_request", "_task", "_timer",
        "_twin",
    )  # fmt: skip

    def __init__(self, layer: HedgeLayer, call: Call, delay_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "every call runs in a task"
        self._layer = layer
        self._call = call
        self._delay_s = delay_s
        self._task = task
        self._cancelling = task.cancelling()
        self._attempts = call.attempts
        # Kept now, because layers further in may put another one there while they run.
        self._request = call.request
        self._is_interrupted = False
        self._is_over = False
        self._hedge: asyncio.Task[Answer] | None = None
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin)

    def _begin(self) -> None:
        """The first attempt is slow: begin the second."""
        call = self._call
        if call.attempts == self._attempts:
            # It has not begun, it waits for a place. Look again later.
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._begin)
            return
        twin = call.fork()
        twin.request = self._request
        twin.is_required = False
        self._twin = twin
        self._attempts = twin.attempts
        self._hedge = self._layer.begin_second(call, twin)
        if self._hedge is not None:
            self._hedge.add_done_callback(self._interrupt)

    def _interrupt(self, hedge: asyncio.Task[Answer]) -> None:
        """The hedge has ended. If it won, the first attempt must."""
        if _is_answered(hedge) and not self._is_over:
            self._is_interrupted = True
            self._task.cancel()

    def _stop(self) -> bool:
        """The first attempt is over. Returns whether it was interrupted, and nobody else has cancelled the task as well."""
        self._is_over = True
        self._timer.cancel()
        return self._is_interrupted and self._task.uncancel() <= self._cancelling

    async def is_won(self) -> bool:
        """Whether the hedge has won, when the first attempt ended by cancellation. If it has not, the cancellation is for both."""
        if self._stop():
            self._win()
            return True
        await self._end()
        return False

    async def is_saved(self, first: Answer | StepError) -> bool:
        """Whether the hedge's answer counts, when the first attempt ended with `first`. Waits for the hedge only if `first` is bad."""
        self._stop()
        hedge = self._hedge
        if hedge is None:
            return False
        if is_good(first):
            await self._end()
            return False
        try:
            await asyncio.wait((hedge,))
        except asyncio.CancelledError:
            await self._end()
            raise
        if _is_answered(hedge):
            self._win()
            return True
        self._account()
        return False

    async def abandon(self) -> None:
        """The first attempt ended in a way that has no place here."""
        self._stop()
        await self._end()

    def answer(self) -> Answer:
        """The hedge's answer, after it has won."""
        assert self._hedge is not None
        return self._hedge.result()

    def _win(self) -> None:
        self._account()
        self._call.address = self._twin.address
        self._layer.tell(self._call, "hedge_won", "")

    async def _end(self) -> None:
        """End the hedge, if one runs, and wait for its end."""
        if self._hedge is not None:
            try:
                await end_task(self._hedge)
            finally:
                self._account()

    def _account(self) -> None:
        """Count what the second attempt did as the call's."""
        call, twin = self._call, self._twin
        call.attempts += twin.attempts - self._attempts
        call.queue_s += twin.queue_s
        call.avoid = max(call.avoid, twin.avoid, key=len)


def is_good(outcome: Answer | StepError) -> bool:
    """Whether an attempt's outcome settles the call: an answer that is not the service's own failure."""
    return isinstance(outcome, Answer) and outcome.status < 500


def _is_answered(hedge: asyncio.Task[Answer]) -> bool:
    """Whether a hedge that has ended has a good answer."""
    return not hedge.cancelled() and hedge.exception() is None and hedge.result().status < 500
