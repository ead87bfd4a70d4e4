"""Paces the calls to one upstream: at most so many in a time, in the order in which they came.

Each call that is sent takes a turn: also a retry, a hedge, and the second attempt with a new token. A call that cannot get its turn before its deadline is rejected at
once, without waiting in vain.

**Source:** ITU-T I.371 appendix A (GCRA): a call conforms when it is at most `burst - 1` intervals ahead of the theoretical arrival time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from anabranch.core.exchange import Answer
from anabranch.core.metric import Sample, metric
from anabranch.errors import UpstreamPaced
from anabranch.plan.upstream import PacePlan, UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools

PACE_WAITING: Final = metric("gauge", "pace_waiting", "upstream", "Calls that wait for their turn under the `rate` of an upstream.")
PACE_REJECTED: Final = metric("counter", "pace_rejected", "upstream", "Calls whose turn would have come too late.")

# The clock of the loop has a resolution of a millisecond or better; what is due now must not wait for another timer.
_ROUNDING_S: Final = 1e-6


class Pacer:
    """The turns of one upstream. `clock`: of the running loop. `workers`: processes that share the rate.

    Cancellation: a call that waits gives its turn to the next one, and so does one whose turn has just come.
    """

    def __init__(self, plan: PacePlan, clock: Callable[[], float], workers: int = 1) -> None:
        self._interval_s = plan.period_s / plan.count * workers
        self._ahead_s = (max(1, plan.burst // workers) - 1) * self._interval_s
        self._clock = clock
        self._arrival = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self.rejected = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting) - self._cancelled

    @property
    def _due(self) -> float:
        """When the next turn comes."""
        return self._arrival - self._ahead_s

    def _take(self, now: float) -> None:
        self._arrival = max(self._arrival, now) + self._interval_s

    def try_take(self, now: float) -> bool:
        """Take a turn if it is there. Never overtakes a call that waits."""
        if self._waiting or self._due > now + _ROUNDING_S:
            return False
        self._take(now)
        return True

    async def wait(self, now: float, deadline: float) -> None:
        """Wait for a turn. Raises UpstreamPaced at once when it will come after `deadline`."""
        due = max(self._due, now) + self.waiting * self._interval_s
        if due >= deadline:
            self.rejected += 1
            raise UpstreamPaced("the rate of this upstream leaves no turn before the deadline", retry_after_s=due - now)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._arm()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._cancelled += 1
                self._drop_cancelled()
            else:
                self._arrival -= self._interval_s
                self._rearm()
            raise

    def _drop_cancelled(self) -> None:
        """Forget cancelled calls at the head of the line, and all of them when they are most of it."""
        waiting = self._waiting
        while waiting and waiting[0].cancelled():
            waiting.popleft()
            self._cancelled -= 1
        if 2 * self._cancelled > len(waiting):
            self._waiting = deque(turn for turn in waiting if not turn.cancelled())
            self._cancelled = 0

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_at(self._due, self._serve)

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm()

    def _serve(self) -> None:
        self._timer = None
        now = self._clock()
        while True:
            self._drop_cancelled()
            if not self._waiting or self._due > now + _ROUNDING_S:
                break
            self._take(now)
            self._waiting.popleft().set_result(None)
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class PaceLayer:
    """Sends each attempt when its turn has come."""

    __slots__ = ("_clock", "_next", "_observer", "_upstream", "pacer")

    def __init__(
        self,
        next_: Policy,
        plan: PacePlan,
        *,
        clock: Callable[[], float],
        upstream: str,
        workers: int = 1,
        observer: Observer | None = None,
    ) -> None:
        self._next = next_
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self.pacer = Pacer(plan, clock, workers)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(PACE_WAITING, (self._upstream,), self.pacer.waiting)
        yield Sample(PACE_REJECTED, (self._upstream,), self.pacer.rejected)

    async def __call__(self, call: Call) -> Answer:
        began = self._clock()
        if not self.pacer.try_take(began):
            await self._wait(call, began)
        return await self._next(call)

    async def _wait(self, call: Call, began: float) -> None:
        try:
            await self.pacer.wait(began, call.deadline)
        except UpstreamPaced as error:
            call.note(f"{error.code}: the next turn comes after the deadline")
            if self._observer is not None:
                self._observer(
                    PolicyEvent(upstream=self._upstream, kind="reject", reason=error.code, attempt=call.attempts + 1, address=call.address)
                )
            raise
        waited_s = self._clock() - began
        call.queue_s += waited_s
        if call.notes is not None:
            call.notes.append(f"waited {waited_s * 1000:.1f} ms for its turn")

    async def aclose(self) -> None:
        self.pacer.close()


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> PaceLayer | None:
    pace = upstream.pace
    if pace is None:
        return None
    return PaceLayer(next_, pace, clock=tools.clock, upstream=upstream.name, workers=tools.workers, observer=tools.observer)


def describe(upstream: UpstreamPlan) -> str | None:
    pace = upstream.pace
    return None if pace is None else f"pace {pace.text}, {pace.burst} at once"
