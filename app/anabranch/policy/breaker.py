"""The breaker around one upstream: rejects calls while it is open, and tells it how the others ended.

Knows which answers and errors count as failures. When the breaker opens and closes is `anabranch.core.breaker`'s business; a breaker for each
of several addresses is `anabranch.policy.balance`'s.
"""

from collections.abc import Callable, Iterable

from anabranch.core.breaker import Breaker, Judgement, State
from anabranch.core.exchange import Address, Answer
from anabranch.errors import BreakerOpen, ConnectError, ConnectionLost, ProtocolError, UpstreamTimeout
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent


class FailureClassifier:
    """What an answer or an error says about the health of the upstream. `on`: the document's `breaker.on`.

    An answer is a success unless it is 5xx and that counts. An error is a failure when its kind counts. Every other way to end says
    nothing and is ignored: rejected further in, cancelled, too large, a kind that does not count.
    """

    __slots__ = ("_fails_on_5xx", "_failures")

    def __init__(self, on: Iterable[str]) -> None:
        kinds = {"timeout": UpstreamTimeout, "connect": ConnectError, "connection_lost": ConnectionLost, "protocol_error": ProtocolError}
        wanted = set(on)
        self._fails_on_5xx = "5xx" in wanted
        self._failures: tuple[type[BaseException], ...] = tuple(error for kind, error in kinds.items() if kind in wanted)

    def answer(self, status: int) -> Judgement:
        return "failure" if status >= 500 and self._fails_on_5xx else "success"

    def error(self, error: BaseException) -> Judgement:
        return "failure" if isinstance(error, self._failures) else "ignore"


class BreakerLayer:
    """Lets a call through when the breaker allows it and records how it ended, whatever way that was.

    Raises BreakerOpen with `retry_after_s` when the breaker is open, before anything further in is touched. Time that the call spent
    waiting for a place is not counted as time the upstream took. Cancellation: gives the permit back and counts nothing.
    Every change of state is one event of kind `breaker` whose reason is the new state.
    """

    __slots__ = ("_clock", "_judge", "_next", "_observer", "_upstream", "breaker")

    def __init__(
        self,
        next_: Policy,
        *,
        breaker: Breaker,
        judge: FailureClassifier,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        self._next = next_
        self._judge = judge
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self.breaker = breaker

    async def __call__(self, call: Call) -> Answer:
        breaker = self.breaker
        began = self._clock()
        before = breaker.state
        permit = breaker.allow(began)
        if permit is None:
            if call.notes is not None:
                call.notes.append("breaker open: nothing was sent")
            raise BreakerOpen("the service is left alone until it recovers", retry_after_s=breaker.retry_after_s(began))
        if breaker.state != before:
            tell_change(self._observer, self._upstream, breaker.state, None)
        queued_s = call.queue_s
        outcome: Judgement = "ignore"
        try:
            answer = await self._next(call)
        except BaseException as error:
            outcome = self._judge.error(error)
            raise
        else:
            outcome = self._judge.answer(answer.status)
            return answer
        finally:
            now = self._clock()
            before = breaker.state
            breaker.record(now, permit, outcome, max(now - began - (call.queue_s - queued_s), 0.0))
            if breaker.state != before:
                tell_change(self._observer, self._upstream, breaker.state, None)


def tell_change(observer: Observer | None, upstream: str, state: State, address: Address | None) -> None:
    """Tell the observer that a breaker is in another state now."""
    if observer is not None:
        observer(PolicyEvent(upstream=upstream, kind="breaker", reason=state, address=address))
