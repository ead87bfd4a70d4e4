"""The breaker layer of an upstream with one address: rejects calls while the breaker is open and records how the others ended.

Also defines which responses and errors count as failures. `anabranch.core.breaker` decides when the breaker opens and closes. For several
addresses, `anabranch.policy.balance` keeps one breaker for each.
"""

from collections.abc import Callable, Iterable

from anabranch.core.breaker import Breaker, Judgement, State
from anabranch.core.exchange import Address, Answer
from anabranch.errors import BreakerOpen, ConnectError, ConnectionLost, ProtocolError, UpstreamTimeout
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent


class FailureClassifier:
    """Classifies a response or an error by what it says about the upstream's health. `on`: the document's `breaker.on`.

    A response is a success, unless it is 5xx and `on` lists `5xx`. An error is a failure if `on` lists its kind. Every other ending is
    ignored: rejected by an inner layer, cancelled, too large, a kind that `on` does not list.
    """

    __slots__ = ("_fails_on_5xx", "_failures")

    def __init__(self, on: Iterable[str]) -> None:
        kinds = {"timeout": UpstreamTimeout, "connect": ConnectError, "connection_lost": ConnectionLost, "protocol_error": ProtocolError}
        listed = set(on)
        self._fails_on_5xx = "5xx" in listed
        self._failures: tuple[type[BaseException], ...] = tuple(error for kind, error in kinds.items() if kind in listed)

    def response(self, status: int) -> Judgement:
        return "failure" if status >= 500 and self._fails_on_5xx else "success"

    def error(self, error: BaseException) -> Judgement:
        return "failure" if isinstance(error, self._failures) else "ignore"


class BreakerLayer:
    """Forwards a call if the breaker allows it, and records how it ended.

    Raises BreakerOpen with `retry_after_s` if the breaker is open, without calling the inner layers. Time spent waiting for a bulkhead
    slot does not count as time of the upstream. Cancellation: returns the permit and counts nothing.
    Every change of state emits one event of kind `breaker`, whose reason is the new state.
    """

    __slots__ = ("_classifier", "_clock", "_next", "_observer", "_upstream", "breaker")

    def __init__(
        self,
        next_: Policy,
        *,
        breaker: Breaker,
        classifier: FailureClassifier,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        self._next = next_
        self._classifier = classifier
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
            raise BreakerOpen("the circuit breaker for the service is open", retry_after_s=breaker.retry_after_s(began))
        if breaker.state != before:
            report_change(self._observer, self._upstream, breaker.state, None)
        queued_s = call.queue_s
        outcome: Judgement = "ignore"
        try:
            answer = await self._next(call)
        except BaseException as error:
            outcome = self._classifier.error(error)
            raise
        else:
            outcome = self._classifier.response(answer.status)
            return answer
        finally:
            now = self._clock()
            before = breaker.state
            breaker.record(now, permit, outcome, max(now - began - (call.queue_s - queued_s), 0.0))
            if breaker.state != before:
                report_change(self._observer, self._upstream, breaker.state, None)


def report_change(observer: Observer | None, upstream: str, state: State, address: Address | None) -> None:
    """Notify the observer that a breaker has changed to `state`."""
    if observer is not None:
        observer(PolicyEvent(upstream=upstream, kind="breaker", reason=state, address=address))
