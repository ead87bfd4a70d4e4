"""Runs a second attempt (a hedge) beside a slow first one; the first good response wins."""

import asyncio
from collections.abc import Callable

from anabranch.config.units import format_duration, format_ratio
from anabranch.core.budget import Budget
from anabranch.core.exchange import Answer
from anabranch.core.hedging import HedgeDelay, hedge_delay
from anabranch.core.tasks import cancel_and_wait
from anabranch.errors import StepError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import EventKind, Observer, PolicyEvent
from anabranch.policy.tools import Tools


class HedgeLayer:
    """Starts a second attempt of an idempotent call if the first one takes longer than `delay` and the budget allows it.

    A good response has a status below 500. If one attempt ends badly, the layer waits for the other; if both do, the call fails like the
    first attempt. No second attempt starts if the deadline would pass first, or while the first one still waits for a bulkhead slot: then
    the upstream is full, and one more call in its queue makes that worse. The second attempt is optional for the bulkhead.

    The first attempt runs in the caller's own task, so a fast call costs a timer and no task. When the hedge wins, that task is interrupted
    as in `asyncio.timeout`: it is cancelled and the cancellation is caught here. The loser is awaited before the response is returned.
    Cancellation from outside ends both.
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
            self._add_sample(call, began, queued_s)
            return race.answer()
        except StepError as error:
            first = error
        except BaseException:
            if race is not None:
                await race.abandon()
            raise
        # Without a hedge, nothing is awaited from here on.
        if is_good(first, call) or (isinstance(first, StepError) and first.is_timeout):
            self._add_sample(call, began, queued_s)
        if race is not None and await race.is_saved(first):
            return race.answer()
        if isinstance(first, Answer):
            return first
        try:
            raise first
        finally:
            # Breaks the cycle of exception, traceback and this frame, which would otherwise be left to the garbage collector.
            del first

    def _add_sample(self, call: Call, began: float, queued_s: float) -> None:
        """Add to `delay` how long the first attempt took, or had taken when it lost. Time in the bulkhead's queue does not count."""
        now = self._clock()
        self._delay.add(now, max(now - began - (call.queue_s - queued_s), 0.0))

    def begin_second(self, call: Call, twin: Call) -> asyncio.Task[Answer] | None:
        """Start the second attempt of `call` as `twin` in a task of its own. None if it must not start."""
        now = self._clock()
        if now >= call.deadline:
            return None
        if not self.budget.try_spend(now):
            self.report(call, "hedge_denied", "budget")
            return None
        call.is_hedged = True
        self.report(call, "hedge", self._delay.label)
        return asyncio.get_running_loop().create_task(self._second(twin))

    async def _second(self, twin: Call) -> Answer:
        return await self._next(twin)

    def report(self, call: Call, kind: EventKind, reason: str) -> None:
        """Add an action of this layer to the notes of `call` and emit it as an event."""
        if call.notes is not None:
            call.notes.append(kind.replace("_", " ") + (f" ({reason})" if reason else ""))
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind=kind, reason=reason, attempt=call.attempts, address=call.address))


class _Race:
    """The first attempt of a call, and its hedge if one starts. Created in the task that is about to run the first attempt."""

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
        # Kept now, because inner layers may replace it while they run.
        self._request = call.request
        self._is_interrupted = False
        self._is_over = False
        self._hedge: asyncio.Task[Answer] | None = None
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin)

    def _begin(self) -> None:
        """The first attempt is slow: start the second."""
        call = self._call
        if call.attempts == self._attempts:
            # The first attempt has not started; it waits for a slot. Check again later.
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
        """Called when the hedge has ended: if it won, interrupt the first attempt."""
        if _is_answered(hedge, self._call) and not self._is_over:
            self._is_interrupted = True
            self._task.cancel()

    def _stop(self) -> bool:
        """Called when the first attempt has ended. Returns whether the hedge interrupted it and the task was not also cancelled from outside."""
        self._is_over = True
        self._timer.cancel()
        return self._is_interrupted and self._task.uncancel() <= self._cancelling

    async def is_won(self) -> bool:
        """Called when the first attempt was cancelled: whether the hedge has won. If not, the cancellation came from outside and ends both."""
        if self._stop():
            self._win()
            return True
        await self._end()
        return False

    async def is_saved(self, first: Answer | StepError) -> bool:
        """Called when the first attempt ended with `first`: whether the hedge's response counts. Waits for the hedge only if `first` is bad."""
        self._stop()
        hedge = self._hedge
        if hedge is None:
            return False
        if is_good(first, self._call):
            await self._end()
            return False
        try:
            await asyncio.wait((hedge,))
        except asyncio.CancelledError:
            await self._end()
            raise
        if _is_answered(hedge, self._call):
            self._win()
            return True
        self._account()
        return False

    async def abandon(self) -> None:
        """Called when the first attempt raised something other than a StepError: end the hedge too."""
        self._stop()
        await self._end()

    def answer(self) -> Answer:
        """The hedge's response, after it has won."""
        assert self._hedge is not None
        return self._hedge.result()

    def _win(self) -> None:
        self._account()
        self._call.address = self._twin.address
        self._layer.report(self._call, "hedge_won", "")

    async def _end(self) -> None:
        """Cancel the hedge, if one runs, and wait for its end."""
        if self._hedge is not None:
            try:
                await cancel_and_wait((self._hedge,))
            finally:
                self._account()

    def _account(self) -> None:
        """Add the second attempt's counts to the call."""
        call, twin = self._call, self._twin
        call.attempts += twin.attempts - self._attempts
        call.queue_s += twin.queue_s
        call.avoid = max(call.avoid, twin.avoid, key=len)


def is_good(outcome: Answer | StepError, call: Call) -> bool:
    """Whether an attempt's outcome settles the call: a response with a status below 500, or a good one."""
    return isinstance(outcome, Answer) and (outcome.status < 500 or outcome.status in call.success)


def _is_answered(hedge: asyncio.Task[Answer], call: Call) -> bool:
    """Whether a finished hedge has a good response."""
    return not hedge.cancelled() and hedge.exception() is None and is_good(hedge.result(), call)


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> HedgeLayer | None:
    hedge = upstream.hedge
    if hedge is None:
        return None
    return HedgeLayer(
        next_,
        delay=hedge_delay(hedge.after),
        budget=Budget.of_share(hedge.budget),
        clock=tools.clock,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str | None:
    hedge = upstream.hedge
    if hedge is None:
        return None
    after = hedge.after if isinstance(hedge.after, str) else format_duration(hedge.after)
    return f"hedge after {after}, budget {format_ratio(hedge.budget)}"
