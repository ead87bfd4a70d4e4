"""The innermost layer: one exchange, with the deadline that is left for it. Knows the transport; knows nothing of other attempts."""

import asyncio
from collections.abc import Callable

from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import DeadlineExceeded, StepError
from anabranch.policy.call import Call
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.upstream.seam import Transport


class AttemptLayer:
    """Sends the call's request once.

    The attempt may take `timeout_s` (None: no limit of its own), but never longer than the call's deadline. With nothing left it raises
    DeadlineExceeded and does not touch the transport. `deadline_header`: lower-case name of the header that tells the upstream how many
    whole milliseconds this attempt has left, at least 1; None to send none.
    `address`: where to, when the upstream has only one; None when a layer further out chooses and writes it to `call.address`.

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
            raise DeadlineExceeded("no time was left to begin an exchange")
        if self._timeout_s is not None and now + self._timeout_s < deadline:
            deadline = now + self._timeout_s
        address = self._address
        if address is None:
            address = call.address
            assert address is not None, "the balancer chooses an address before every attempt"
        else:
            call.address = address
        request = call.request
        if self._deadline_header is not None:
            left = (self._deadline_header, b"%d" % max(int((deadline - now) * 1000), 1))
            request = Request(request.method, request.target, request.headers, (*request.extra, left), request.body)
        call.attempts += 1
        if self._observer is None and call.notes is None:
            return await self._exchange(request, address, deadline)
        return await self._watched(call, request, address, deadline, now)

    async def _watched(self, call: Call, request: Request, address: Address, deadline: float, began: float) -> Answer:
        """The same exchange, told to the observer and to the call's notes."""
        attempt = call.attempts
        try:
            answer = await self._exchange(request, address, deadline)
        except StepError as error:
            self._tell(call, address, attempt, began, error.code)
            raise
        except asyncio.CancelledError:
            self._tell(call, address, attempt, began, "cancelled")
            raise
        self._tell(call, address, attempt, began, str(answer.status))
        return answer

    def _tell(self, call: Call, address: Address, attempt: int, began: float, result: str) -> None:
        elapsed_s = self._clock() - began
        if call.notes is not None:
            call.notes.append(f"attempt {attempt}: {result} after {elapsed_s * 1000:.1f} ms")
        if self._observer is not None:
            self._observer(
                PolicyEvent(upstream=self._upstream, kind="attempt", reason=result, elapsed_s=elapsed_s, attempt=attempt, address=address)
            )
