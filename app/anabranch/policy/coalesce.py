"""Lets identical concurrent calls share one exchange (single flight). Keeps nothing after the response has arrived.

Two calls are identical if they send the same method, target, body and header fields, whether fixed by the document, forwarded or computed.
So two principals never share a response, whichever field carries their credentials. Only the fields that identify the request itself are
ignored, request id and trace context, and the chains of addresses: clients at different addresses share an exchange.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from anabranch.cache.entries import Key
from anabranch.core.exchange import Answer
from anabranch.core.forwarding import CHAINS
from anabranch.core.tasks import cancel_and_wait
from anabranch.errors import ConnectionLost, DeadlineExceeded, StepError, UpstreamTimeout
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools

IGNORED_FIELDS: Final = CHAINS.union((b"x-request-id", b"traceparent", b"tracestate"))
# Timers may fire early by the resolution of the event loop (a millisecond on uvloop).
_EARLY_S: Final = 0.002


def coalescing_key(call: Call) -> Key:
    """Calls with the same key share one exchange.

    The key includes the principal's identity, and `is_required`: an optional call is shed first under pressure, and no required call may be shed with it; and what is a good answer to the call. The order of
    header fields counts, so calls that differ only in it are not shared.
    """
    request = call.request
    extra = request.extra
    for field in extra:
        if field[0] in IGNORED_FIELDS:
            extra = tuple(field for field in extra if field[0] not in IGNORED_FIELDS)
            break
    identity = b"" if call.principal is None else call.principal.identity
    return (request.method, request.target, request.host, request.headers, extra, request.body, identity, call.is_required, call.success)


class CoalesceLayer:
    """Joins a coalesced GET or HEAD to an identical shared call, or starts a shared call for it. Other calls pass through.

    The shared call runs in its own task, so cancelling the first caller does not fail the others. When the last caller has left, the task
    is cancelled and awaited.

    Deadlines: the shared call has the deadline of its first caller. It cannot be extended, because the exchange is in flight and the
    upstream may have been sent the deadline. A caller with an earlier deadline leaves when that passes, with UpstreamTimeout (DeadlineExceeded
    if nothing was sent yet), and the shared call goes on. If the shared call fails because the first caller's deadline passed, the callers
    with a later deadline start or join another one. So joining never costs a caller its chance, and there are never more shared calls than
    calls.
    """

    __slots__ = ("_clock", "_next", "_observer", "_shared", "_upstream")

    def __init__(self, next_: Policy, *, clock: Callable[[], float], upstream: str, observer: Observer | None = None) -> None:
        self._next = next_
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self._shared: dict[Key, _SharedCall] = {}

    @property
    def shared_calls(self) -> int:
        """How many shared calls are in flight, including those with only one caller."""
        return len(self._shared)

    def __call__(self, call: Call) -> Awaitable[Answer]:
        if call.is_coalesced and call.request.method in ("GET", "HEAD"):
            return self._share(call)
        return self._next(call)

    async def aclose(self) -> None:
        """Cancel the shared calls in flight and wait for their end. Their callers get ConnectionLost."""
        for shared in tuple(self._shared.values()):
            await shared.end()

    async def _share(self, call: Call) -> Answer:
        key = coalescing_key(call)
        is_restarted = False
        while True:
            shared = self._shared.get(key)
            if shared is None:
                shared = _SharedCall(self, key, call)
                self._shared[key] = shared
            else:
                self._report(call, "restarted" if is_restarted else "joined")
            failure = await shared.wait(call)
            if failure is None:
                return shared.answer()
            now = self._clock()
            if now >= call.deadline or call.deadline <= shared.deadline or not _is_out_of_time(failure, shared, now):
                raise failure.with_traceback(None)
            is_restarted = True

    async def run(self, call: Call) -> Answer:
        """Run a shared call; a coroutine for its task."""
        return await self._next(call)

    def discard(self, key: Key, shared: "_SharedCall") -> None:
        """Stop others from joining `shared`."""
        if self._shared.get(key) is shared:
            del self._shared[key]

    def _report(self, call: Call, reason: str) -> None:
        call.note(f"coalesce ({reason})")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="coalesce", reason=reason))


class _SharedCall:
    """One shared call: its task and the futures of its callers. `deadline`: of its first caller."""

    __slots__ = ("_attempts", "_call", "_first", "_key", "_layer", "_loop", "_task", "_waiters", "deadline")

    def __init__(self, layer: CoalesceLayer, key: Key, first: Call) -> None:
        self._layer = layer
        self._key = key
        self._first = first
        self._call = first.fork()
        self._attempts = first.attempts
        self.deadline = first.deadline
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(layer.run(self._call))
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
        self._layer.discard(self._key, self)
        await cancel_and_wait((self._task,))

    def _on_done(self, task: asyncio.Task[Answer]) -> None:
        self._layer.discard(self._key, self)
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
        if call is self._first:
            call.queue_s += shared.queue_s


def _is_out_of_time(failure: StepError, shared: _SharedCall, now: float) -> bool:
    """Whether the shared call failed because its first caller's deadline passed, not because of a timeout that applies to every caller."""
    return failure.is_timeout and now >= shared.deadline - _EARLY_S


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> CoalesceLayer:
    """Always built: each call decides whether it is shared, and to ask it is all that the layer costs the others."""
    return CoalesceLayer(next_, clock=tools.clock, upstream=upstream.name, observer=tools.observer)


def describe(upstream: UpstreamPlan) -> str:
    return "coalesce identical calls that enable it"
