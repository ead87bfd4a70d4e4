"""The innermost layer: sends one request by the transport, within the time that is left. Does not retry."""

import asyncio
from collections.abc import Callable

from anabranch.config.units import format_duration
from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import DeadlineExceeded, StepError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools
from anabranch.upstream.seam import Transport


class AttemptLayer:
    """Sends the call's request once.

    `timeout_s`: limit for this attempt (None: only the call's deadline). If the deadline has already passed, raises DeadlineExceeded
    without touching the transport. `deadline_header`: lower-case name of the header that carries the time left for this attempt, in whole
    milliseconds and at least 1; None sends no such header.
    `address`: the upstream's only address; None if an outer layer chooses one and writes it to `call.address`.

    Raises what the transport raises. Cancellation closes the exchange's connection.
    """

    __slots__ = ("_address", "_clock", "_deadline_header", "_exchange", "_observer", "_timeout_s", "_upstream")

    def __init__(
        self,
        transport: Transport,
        *,
        address: Address | None,
        timeout_s: float | None,
        deadline_header: bytes | None,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        self._exchange = transport.exchange
        self._address = address
        self._timeout_s = timeout_s
        self._deadline_header = deadline_header
        self._clock = clock
        self._upstream = upstream
        self._observer = observer

    async def __call__(self, call: Call) -> Answer:
        now = self._clock()
        deadline = call.deadline
        if deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request was sent")
        if self._timeout_s is not None and now + self._timeout_s < deadline:
            deadline = now + self._timeout_s
        address = self._address
        if address is None:
            address = call.address
            assert address is not None, "the balance layer sets an address before every attempt"
        else:
            call.address = address
        request = call.request
        if self._deadline_header is not None:
            time_left = (self._deadline_header, b"%d" % max(int((deadline - now) * 1000), 1))
            request = Request(request.method, request.target, request.headers, (*request.extra, time_left), request.body, request.host)
        call.attempts += 1
        if self._observer is None and call.notes is None:
            return await self._exchange(request, address, deadline)
        return await self._observed(call, request, address, deadline, now)

    async def _observed(self, call: Call, request: Request, address: Address, deadline: float, began: float) -> Answer:
        """Run the exchange and report it to the observer and the call's notes."""
        attempt = call.attempts
        try:
            answer = await self._exchange(request, address, deadline)
        except StepError as error:
            self._report(call, address, attempt, began, error.code)
            raise
        except asyncio.CancelledError:
            self._report(call, address, attempt, began, "cancelled")
            raise
        self._report(call, address, attempt, began, str(answer.status))
        return answer

    def _report(self, call: Call, address: Address, attempt: int, began: float, result: str) -> None:
        elapsed_s = self._clock() - began
        if call.notes is not None:
            call.notes.append(f"attempt {attempt}: {result} after {elapsed_s * 1000:.1f} ms")
        if self._observer is not None:
            self._observer(
                PolicyEvent(upstream=self._upstream, kind="attempt", reason=result, elapsed_s=elapsed_s, attempt=attempt, address=address)
            )


def build(upstream: UpstreamPlan, tools: Tools) -> AttemptLayer:
    """The innermost layer: there is none that it could wrap."""
    return AttemptLayer(
        tools.transport,
        address=None if upstream.is_balanced else upstream.addresses[0],
        timeout_s=upstream.timeout_s,
        deadline_header=upstream.deadline_header,
        clock=tools.clock,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str:
    return "attempt " + ("until the deadline" if upstream.timeout_s is None else f"within {format_duration(upstream.timeout_s)}")
