"""The breaker layer of an upstream with one address: rejects calls while the breaker is open and records how the others ended.

Also defines which responses and errors count as failures. `anabranch.core.breaker` decides when the breaker opens and closes. For several
addresses, `anabranch.policy.balance` keeps one breaker for each.
"""

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final

from anabranch.config.units import format_duration, format_ratio
from anabranch.core.breaker import Breaker, Judgement, State
from anabranch.core.exchange import Address, Answer
from anabranch.core.metric import Sample, metric
from anabranch.errors import BreakerOpen, ConnectError, ConnectionLost, ProtocolError, UnexpectedAnswer, UpstreamTimeout
from anabranch.plan.upstream import BreakerPlan, UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools

logger = logging.getLogger("anabranch.breaker")


class FailureClassifier:
    """Classifies a response or an error by what it says about the upstream's health. `on`: the document's `breaker.on`.

    A response is a success, unless it is 5xx, no good answer, and `on` lists `5xx`. An error is a failure if `on` lists its kind, or if it is about an
    answer that the document refuses: only calls with `counts_as_failure` end so here. Every other ending is
    ignored: rejected by an inner layer, cancelled, too large, a kind that `on` does not list.
    """

    __slots__ = ("_fails_on_5xx", "_failures")

    def __init__(self, on: Iterable[str]) -> None:
        kinds = {"timeout": UpstreamTimeout, "connect": ConnectError, "connection_lost": ConnectionLost, "protocol_error": ProtocolError}
        listed = set(on)
        self._fails_on_5xx = "5xx" in listed
        self._failures: tuple[type[BaseException], ...] = (
            UnexpectedAnswer,
            *(error for kind, error in kinds.items() if kind in listed),
        )

    def response(self, status: int, success: Container[int] = ()) -> Judgement:
        return "failure" if status >= 500 and self._fails_on_5xx and status not in success else "success"

    def error(self, error: BaseException) -> Judgement:
        return "failure" if isinstance(error, self._failures) else "ignore"


BREAKER_STATE: Final = metric("gauge", "breaker_state", "upstream address", "State of a breaker: 0 closed, 1 half open, 2 open.")


_STATES: Final[dict[State, float]] = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


def state_sample(breaker: Breaker, upstream: str, address: str) -> Sample:
    """The state of a breaker. `address`: "" for the only one."""
    return Sample(BREAKER_STATE, (upstream, address), _STATES[breaker.state])


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

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield state_sample(self.breaker, self._upstream, "")

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
            outcome = self._classifier.response(answer.status, call.success)
            return answer
        finally:
            now = self._clock()
            before = breaker.state
            breaker.record(now, permit, outcome, max(now - began - (call.queue_s - queued_s), 0.0))
            if breaker.state != before:
                report_change(self._observer, self._upstream, breaker.state, None)


def report_change(observer: Observer | None, upstream: str, state: State, address: Address | None) -> None:
    """Log that a breaker has changed to `state`, and notify the observer."""
    of = upstream if address is None else f"{upstream} at {address.host}:{address.port}"
    logger.log(logging.WARNING if state == "open" else logging.INFO, "the breaker of %s is %s", of, state.replace("_", " "))
    if observer is not None:
        observer(PolicyEvent(upstream=upstream, kind="breaker", reason=state, address=address))


def breaker_of(plan: BreakerPlan) -> Breaker:
    """A breaker as the document sets it."""
    return Breaker(
        window_s=plan.window_s,
        failure_rate=plan.failure_rate,
        minimum_calls=plan.minimum_calls,
        open_for_s=plan.open_for_s,
        probes=plan.probes,
        slow_after_s=plan.slow_after_s,
        slow_rate=plan.slow_rate,
    )


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> BreakerLayer | None:
    """Built for an upstream with a single address; several have theirs in the balance layer."""
    if upstream.breaker is None or upstream.is_balanced:
        return None
    return BreakerLayer(
        next_,
        breaker=breaker_of(upstream.breaker),
        classifier=FailureClassifier(upstream.failures),
        clock=tools.clock,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str | None:
    if upstream.breaker is None or upstream.is_balanced:
        return None
    return f"breaker at {rule_of(upstream.breaker)}, open for {format_duration(upstream.breaker.open_for_s)}"


def rule_of(plan: BreakerPlan) -> str:
    """When a breaker opens, in words."""
    return f"{format_ratio(plan.failure_rate)} failures of {plan.minimum_calls} calls in {format_duration(plan.window_s)}"
