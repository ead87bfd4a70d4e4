"""Answers a failed call with the last good response (stale-if-error), up to the age that the document allows.

A stored response belongs to a request as it was sent: method, target, body and header fields, whether fixed by the document, forwarded
or computed. Only the fields that identify the request itself are ignored, as for coalesced calls. So a principal never gets a response
that belongs to another one.

**Source:** RFC 5861 section 4; RFC 9111 sections 4.2.3 (age) and 5.2.2.5 (no-store).
"""

from collections.abc import Awaitable, Callable

from anabranch.cache.entries import Key, StaleStore, age_of, may_be_stored, recorded_key, recorded_origin
from anabranch.core.exchange import Answer
from anabranch.errors import StepError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call, Policy
from anabranch.policy.coalesce import coalescing_key
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools


class StaleLayer:
    """Stores the good responses of calls that have a stale rule, and returns the stored one when such a call fails.

    A call fails by a StepError, a status of 500 or more that is no good answer, or a good answer that its step cannot read; a 4xx is not a failure. The age of the response is
    written to `call.stale_age_s`. Other calls pass through. Cancellation passes through; nothing is stored.
    """

    __slots__ = ("_clock", "_next", "_observer", "_store", "_upstream")

    def __init__(
        self, next_: Policy, *, store: StaleStore, clock: Callable[[], float], upstream: str, observer: Observer | None = None
    ) -> None:
        self._next = next_
        self._store = store
        self._clock = clock
        self._upstream = upstream
        self._observer = observer

    def __call__(self, call: Call) -> Awaitable[Answer]:
        return self._next(call) if call.stale is None else self._guarded(call)

    async def _guarded(self, call: Call) -> Answer:
        rule = call.stale
        assert rule is not None
        key = stale_key(self._upstream, call)
        try:
            answer = await self._next(call)
        except StepError as error:
            stored = self._stored(call, key, error.code)
            if stored is None:
                raise
            return stored
        is_good = answer.status in call.success
        fault = rule.fault_of(answer) if is_good else str(answer.status) if answer.status >= 500 else ""
        if fault:
            stored = self._stored(call, key, fault)
            return answer if stored is None else stored
        if is_good:
            if may_be_stored(answer):
                self._store.put(key, answer, self._clock() - age_of(answer))
            else:
                self._store.discard(key)
        return answer

    def _stored(self, call: Call, key: Key, reason: str) -> Answer | None:
        """The stored response for a call that failed with `reason`; None if there is none that is fresh enough."""
        rule = call.stale
        assert rule is not None
        now = self._clock()
        found = self._store.get(key)
        if found is None and rule.origin and call.request.body is None:
            found = self._store.get(recorded_key(recorded_origin(rule.origin, call.request), call.request.method, call.request.target))
        if found is None or (age_s := max(now - found.since_s, 0.0)) > rule.max_age_s:
            return None
        call.stale_age_s = age_s
        if call.notes is not None:
            call.notes.append(f"stale response, {age_s:.1f} s old, instead of {reason}")
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="stale", reason=reason))
        return found.answer


def stale_key(upstream: str, call: Call) -> Key:
    """Calls with the same key have the same stored response. Unlike for coalescing, what becomes of the response is not part of the key."""
    return (upstream, *coalescing_key(call)[:-2])


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> StaleLayer | None:
    """Built where a call of the upstream has a stale rule."""
    if tools.stale is None:
        return None
    return StaleLayer(next_, store=tools.stale, clock=tools.clock, upstream=upstream.name, observer=tools.observer)


def describe(upstream: UpstreamPlan) -> str | None:
    return "stale response of calls that enable it" if upstream.has_stale_calls else None
