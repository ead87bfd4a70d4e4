"""Lets identical concurrent calls share one exchange (single flight). Keeps nothing after the response has arrived.

Two calls are identical if they send the same method, target, body and header fields, whether fixed by the document, forwarded or computed.
So two principals never share a response, whichever field carries their credentials. Only the fields that identify the request itself are
ignored, request id and trace context, and the chains of addresses: clients at different addresses share an exchange.
"""

from collections.abc import Awaitable, Callable, Hashable

from anabranch.cache.keys import OF_THE_REQUEST
from anabranch.core.exchange import Answer
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.flights import Flights
from anabranch.policy.tools import Tools


def coalescing_key(call: Call) -> Hashable:
    """Calls with the same key share one exchange.

    The key includes the principal's identity, and `is_required`: an optional call is shed first under pressure, and no required call may be shed with it; and what is a good answer to the call. The order of
    header fields counts, so calls that differ only in it are not shared.
    """
    request = call.request
    extra = request.extra
    for field in extra:
        if field[0] in OF_THE_REQUEST:
            extra = tuple(field for field in extra if field[0] not in OF_THE_REQUEST)
            break
    identity = b"" if call.principal is None else call.principal.identity
    return (request.method, request.target, request.host, request.headers, extra, request.body, identity, call.is_required, call.success)


class CoalesceLayer:
    """Joins a coalesced GET or HEAD to an identical shared call, or starts a shared call for it: see `Flights`. Other calls pass through."""

    __slots__ = ("_flights", "_next", "_observer", "_upstream")

    def __init__(self, next_: Policy, *, clock: Callable[[], float], upstream: str, observer: Observer | None = None) -> None:
        self._next = next_
        self._upstream = upstream
        self._observer = observer
        self._flights = Flights(clock)

    @property
    def shared_calls(self) -> int:
        """How many shared calls are in flight, including those with only one caller."""
        return len(self._flights)

    def __call__(self, call: Call) -> Awaitable[Answer]:
        if call.is_coalesced and call.request.method in ("GET", "HEAD"):
            return self._share(call)
        return self._next(call)

    async def aclose(self) -> None:
        """Cancel the shared calls in flight and wait for their end. Their callers get ConnectionLost."""
        await self._flights.aclose()

    async def _share(self, call: Call) -> Answer:
        answer, _ = await self._flights.share(coalescing_key(call), call, self._next, self._report)
        return answer

    def _report(self, call: Call, reason: str) -> None:
        call.note(f"coalesce ({reason})")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="coalesce", reason=reason))


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> CoalesceLayer:
    """Always built: each call decides whether it is shared, and to ask it is all that the layer costs the others."""
    return CoalesceLayer(next_, clock=tools.clock, upstream=upstream.name, observer=tools.observer)


def describe(upstream: UpstreamPlan) -> str:
    return "coalesce identical calls that enable it"
