"""Lets identical calls that run at the same time share one exchange (single flight). Keeps nothing once the answer is there.

Two calls are identical when nothing that is sent can tell them apart: method, target, body, and every header field, whether fixed by the
document, forwarded or computed. So two principals never share an answer, whatever their credentials stand in. Left out are only the fields
that name the request and not what is asked for: request id and trace context.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.core.exchange import Answer
from anabranch.errors import ConnectionLost, DeadlineExceeded, StepError, UpstreamTimeout
from anabranch.policy.call import Call, Policy
from anabranch.policy.ending import end_task
from anabranch.policy.event import Observer, PolicyEvent

NOISE: Final = frozenset((b"x-request-id", b"traceparent", b"tracestate"))
# Timers may fire early by as much as the loop's resolution (a millisecond on uvloop).
_EARLY_S: Final = 0.002

Key = tuple[object, ...]


def coalescing_key(call: Call) -> Key:
    """What calls must have in common to share one exchange.

    That both are required, or both optional, belongs to it: an optional flight is shed first under pressure, and no required call may be
    shed with it. Field order counts, which can only keep calls apart.
    """
    request = call.request
    extra = request.extra
    for field in extra:
        if field[0] in NOISE:
            extra = tuple(field for field in extra if field[0] not in NOISE)
            break
    return (request.method, request.target, request.headers, extra, request.body, call.is_required)


class CoalesceLayer:
    """Joins a coalesced GET or HEAD to the flight of an identical one, or begins its own. Other calls pass through.

    A flight is the call of its leader, run in a task of its own: the leader waits for it like everybody else, so that its cancellation
    fails nobody. The task is cancelled, and awaited, when the last one who waits is gone.

    Deadlines: the flight has its leader's, because an exchange cannot be given more time once it is under way and the upstream may have
    been told. Whoever has less time leaves with UpstreamTimeout (DeadlineExceeded when nothing was sent yet) when it is up, and the
    flight goes on. Whoever has more time, when the flight fails because its leader's time is up, goes into another flight with those
    that are left: so joining costs nobody a chance, and there are never more flights than calls.
    """

    __slots__ = ("_clock", "_flights", "_next", "_observer", "_upstream")

    def __init__(self, next_: Policy, *, clock: Callable[[], float], upstream: str, observer: Observer | None = None) -> None:
        self._next = next_
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self._flights: dict[Key, _Flight] = {}

    @property
    def flights(self) -> int:
        """How many exchanges are shared, or could be, now."""
        return len(self._flights)

    def __call__(self, call: Call) -> Awaitable[Answer]:
        if call.is_coalesced and call.request.method in ("GET", "HEAD"):
            return self._fly(call)
        return self._next(call)

    async def aclose(self) -> None:
        """Cancel the flights that are under way, and wait for their end. Whoever waits for one gets ConnectionLost."""
        for flight in tuple(self._flights.values()):
            await flight.end()

    async def _fly(self, call: Call) -> Answer:
        key = coalescing_key(call)
        is_restarted = False
        while True:
            flight = self._flights.get(key)
            if flight is None:
                flight = _Flight(self, key, call)
                self._flights[key] = flight
            else:
                self._tell(call, "restarted" if is_restarted else "joined")
            failure = await flight.wait(call)
            if failure is None:
                return flight.answer()
            now = self._clock()
            if now >= call.deadline or call.deadline <= flight.deadline or not _is_out_of_time(failure, flight, now):
                raise failure.with_traceback(None)
            is_restarted = True

    async def run(self, call: Call) -> Answer:
        """The flight's call, as a coroutine for its task."""
        return await self._next(call)

    def forget(self, key: Key, flight: "_Flight") -> None:
        """Let nobody else join `flight`."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _tell(self, call: Call, reason: str) -> None:
        call.note(f"coalesce ({reason})")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="coalesce", reason=reason))


class _Flight:
    """One shared call: its task, and those that wait for it. `deadline`: its leader's."""

    __slots__ = ("_attempts", "_call", "_key", "_layer", "_leader", "_loop", "_task", "_waiters", "deadline")

    def __init__(self, layer: CoalesceLayer, key: Key, leader: Call) -> None:
        self._layer = layer
        self._key = key
        self._leader = leader
        self._call = leader.fork()
        self._attempts = leader.attempts
        self.deadline = leader.deadline
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(layer.run(self._call))
        self._task.add_done_callback(self._land)

    async def wait(self, call: Call) -> StepError | None:
        """Wait for the end of the flight. Returns its failure, or None when it has an answer; raises when the time of `call` is up first.

        Cancellation, or time that is up: leaves the flight, and ends it when nobody else is in it.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        # Who has as much time as the flight, or more, needs no timer: the layers further in end it in time, and see why.
        timer = self._loop.call_at(call.deadline, self._give_up, waiter) if call.deadline < self.deadline else None
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.discard(waiter)
            self._account(call)
            if not self._waiters and not self._task.done():
                await self.end()
        if self._task.cancelled():
            return ConnectionLost("the gateway is shutting down", may_be_processed=True)
        failure = self._task.exception()
        if failure is None or isinstance(failure, StepError):
            return failure
        raise failure

    def answer(self) -> Answer:
        """What the flight brought."""
        return self._task.result()

    async def end(self) -> None:
        """Cancel the flight and wait until it has ended."""
        self._layer.forget(self._key, self)
        await end_task(self._task)

    def _land(self, task: asyncio.Task[Answer]) -> None:
        self._layer.forget(self._key, self)
        if not task.cancelled():
            # Marks a failure as seen: there may be nobody left to see it.
            task.exception()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        if self._call.attempts > self._attempts:
            waiter.set_exception(UpstreamTimeout("the time for this call was up before the shared exchange ended", may_be_processed=True))
        else:
            waiter.set_exception(DeadlineExceeded("the time for this call was up before the shared exchange began"))

    def _account(self, call: Call) -> None:
        """Write down in `call` what the flight did for it."""
        shared = self._call
        call.attempts += shared.attempts - self._attempts
        call.address = shared.address
        call.is_hedged = call.is_hedged or shared.is_hedged
        call.stale_age_s = shared.stale_age_s
        if call is self._leader:
            call.queue_s += shared.queue_s


def _is_out_of_time(failure: StepError, flight: _Flight, now: float) -> bool:
    """Whether the flight failed because its leader's time was up, and not because of a timeout that anybody would have met."""
    return failure.is_timeout and now >= flight.deadline - _EARLY_S
