"""Lets several calls share one exchange (single flight). Keeps nothing after the response has arrived.

The shared call runs in its own task, so cancelling the first caller does not fail the others. When the last caller has left, the task
is cancelled and awaited.

Deadlines: the shared call has the deadline of its first caller. It cannot be extended, because the exchange is in flight and the
upstream may have been sent the deadline. A caller with an earlier deadline leaves when that passes, with UpstreamTimeout (DeadlineExceeded
if nothing was sent yet), and the shared call goes on. If the shared call fails because the first caller's deadline passed, the callers
with a later deadline start or join another one. So joining never costs a caller its chance, and there are never more shared calls than
calls.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

from anabranch.core.exchange import Answer
from anabranch.core.tasks import cancel_and_wait
from anabranch.errors import ConnectionLost, DeadlineExceeded, StepError, UpstreamTimeout
from anabranch.policy.call import Call, Policy

# Timers may fire early by the resolution of the event loop (a millisecond on uvloop).
_EARLY_S: Final = 0.002


class Flights:
    """The shared calls in flight, by key."""

    __slots__ = ("_clock", "_shared")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shared: dict[Hashable, _SharedCall] = {}

    def __len__(self) -> int:
        """How many shared calls are in flight, including those with only one caller."""
        return len(self._shared)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._shared

    async def share(self, key: Hashable, call: Call, run: Policy, on_join: Callable[[Call, str], None]) -> tuple[Answer, bool]:
        """The response of the shared call for `key`, and whether `call` has joined another one's. `run` is called with a fork of the first call.

        `on_join`: called with `joined`, or with `restarted` after the first caller's deadline passed. Raises StepError.
        """
        is_restarted = is_joined = False
        while True:
            shared = self._shared.get(key)
            if shared is None:
                is_joined = False
                shared = _SharedCall(self, key, call, run)
                self._shared[key] = shared
            else:
                is_joined = True
                on_join(call, "restarted" if is_restarted else "joined")
            failure = await shared.wait(call)
            if failure is None:
                return shared.answer(), is_joined
            now = self._clock()
            if now >= call.deadline or call.deadline <= shared.deadline or not _is_out_of_time(failure, shared, now):
                raise failure.with_traceback(None)
            is_restarted = True

    async def aclose(self) -> None:
        """Cancel the shared calls in flight and wait for their end. Their callers get ConnectionLost."""
        for shared in tuple(self._shared.values()):
            await shared.end()

    def discard(self, key: Hashable, shared: "_SharedCall") -> None:
        """Stop others from joining `shared`."""
        if self._shared.get(key) is shared:
            del self._shared[key]


class _SharedCall:
    """One shared call: its task and the futures of its callers. `deadline`: of its first caller."""

    __slots__ = ("_attempts", "_call", "_first", "_flights", "_key", "_loop", "_task", "_waiters", "deadline")

    def __init__(self, flights: Flights, key: Hashable, first: Call, run: Policy) -> None:
        self._flights = flights
        self._key = key
        self._first = first
        self._call = first.fork()
        self._attempts = first.attempts
        self.deadline = first.deadline
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(_run(run, self._call))
        self._task.add_done_callback(self._on_done)

    async def wait(self, call: Call) -> StepError | None:
        """Wait for the end of the shared call. Returns its failure, or None if there is a response.

        Raises UpstreamTimeout or DeadlineExceeded if the deadline of `call` passes first. On that and on cancellation the caller leaves the
        shared call; the last caller to leave ends it.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        # A caller with the same or a later deadline needs no timer: the inner layers end the shared call in time and know the reason.
        timer = self._loop.call_at(call.deadline, self._expire, waiter) if call.deadline < self.deadline else None
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
        """The response, once `wait` has returned None."""
        return self._task.result()

    async def end(self) -> None:
        """Cancel the shared call and wait until it has ended."""
        self._flights.discard(self._key, self)
        await cancel_and_wait((self._task,))

    def _on_done(self, task: asyncio.Task[Answer]) -> None:
        self._flights.discard(self._key, self)
        if not task.cancelled():
            # Marks the exception as retrieved: there may be no caller left.
            task.exception()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            return
        if self._call.attempts > self._attempts:
            waiter.set_exception(UpstreamTimeout("this call timed out before the shared exchange ended", may_be_processed=True))
        else:
            waiter.set_exception(DeadlineExceeded("this call timed out before the shared exchange began"))

    def _account(self, call: Call) -> None:
        """Record in `call` what the shared call did for it."""
        shared = self._call
        call.attempts += shared.attempts - self._attempts
        call.address = shared.address
        call.is_hedged = call.is_hedged or shared.is_hedged
        call.stale_age_s = shared.stale_age_s
        call.cache_use = shared.cache_use
        call.is_stored = shared.is_stored
        call.refuse = shared.refuse or call.refuse
        if call is self._first:
            call.queue_s += shared.queue_s


def _is_out_of_time(failure: StepError, shared: _SharedCall, now: float) -> bool:
    """Whether the shared call failed because its first caller's deadline passed, not because of a timeout that applies to every caller."""
    return failure.is_timeout and now >= shared.deadline - _EARLY_S


async def _run(run: Policy, call: Call) -> Answer:
    return await run(call)
