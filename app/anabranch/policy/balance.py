"""Chooses the address of each attempt among several, and keeps the load, breaker and health of each address.

A picker (`anabranch.core.balance`) chooses among the usable addresses. The breaker and the outlier detector decide which ones are usable.
`set_addresses` replaces the addresses while calls are in flight.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from anabranch.config.units import format_duration
from anabranch.core.balance import Load, Picker, picker_of
from anabranch.core.breaker import Breaker, Judgement, Permit
from anabranch.core.exchange import Address, Answer
from anabranch.core.metric import Sample, metric
from anabranch.core.outlier import OutlierDetector, TargetHealth
from anabranch.errors import BreakerOpen, ResolveError
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.breaker import FailureClassifier, breaker_of, report_change, rule_of, state_sample
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent
from anabranch.policy.tools import Tools

EJECTED: Final = metric("gauge", "address_ejected", "upstream address", "1 while the address is ejected.")


class Target:
    """One address with its load, breaker and health. `breaker`: None if the document sets none. `is_out`: ejected and not yet restored."""

    __slots__ = ("address", "breaker", "health", "is_out", "load")

    def __init__(self, address: Address, breaker: Breaker | None) -> None:
        self.address = address
        self.breaker = breaker
        self.load = Load()
        self.health = TargetHealth()
        self.is_out = False


class BalanceLayer:
    """Writes an address to `call.address` for the inner layers, adds it to `call.avoid`, and records how the attempt ended.

    An address whose breaker rejects calls is never used. The picker chooses from the first of these groups that is not empty:

    1. addresses that are neither ejected nor in `call.avoid`;
    2. addresses in `call.avoid` that are not ejected. But if the last exchange of each of them failed, ejected addresses that this call
       has not tried come first, since they may have recovered;
    3. ejected addresses.

    If all breakers are open, raises BreakerOpen with the smallest `retry_after_s` without calling the inner layers.

    Concurrent attempts need a call each (`Call.fork`), because they must not share `call.address`. Time spent waiting for a bulkhead slot
    does not count as time of the address.

    Cancellation: returns the permit; breaker and health record nothing. Cost: O(addresses) for each attempt.
    """

    __slots__ = ("_classifier", "_clock", "_detector", "_new_breaker", "_next", "_observer", "_picker", "_targets", "_upstream")

    def __init__(
        self,
        next_: Policy,
        *,
        addresses: Iterable[Address],
        picker: Picker,
        classifier: FailureClassifier,
        new_breaker: Callable[[], Breaker] | None,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        """`new_breaker`: makes the breaker of an address; None if the document sets none."""
        self._next = next_
        self._picker = picker
        self._classifier = classifier
        self._new_breaker = new_breaker
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self._detector = OutlierDetector()
        self._targets: tuple[Target, ...] = ()
        self._replace(addresses)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The addresses in use with their load, breaker and health. Read only."""
        return self._targets

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for target in self._targets:
            address = target.address
            where = address.origin if address.ip is None else f"{address.origin} {address.ip}"
            if target.breaker is not None:
                yield state_sample(target.breaker, self._upstream, where)
            yield Sample(EJECTED, (self._upstream, where), float(target.is_out))

    def set_addresses(self, addresses: Iterable[Address]) -> None:
        """Use `addresses` from the next attempt on. Addresses that stay keep their state; attempts in flight finish on their address."""
        if self._replace(addresses) and self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="balance", reason="addresses"))

    def _replace(self, addresses: Iterable[Address]) -> bool:
        known = {target.address: target for target in self._targets}
        targets = tuple(known.get(address) or self._new_target(address) for address in dict.fromkeys(addresses))
        has_changed = targets != self._targets
        self._targets = targets
        return has_changed

    def _new_target(self, address: Address) -> Target:
        return Target(address, None if self._new_breaker is None else self._new_breaker())

    async def __call__(self, call: Call) -> Answer:
        began = self._clock()
        target, permit = self._choose(began, call)
        call.address = target.address
        if target.address not in call.avoid:
            call.avoid = (*call.avoid, target.address)
        queued_s = call.queue_s
        outcome: Judgement = "ignore"
        target.load.begin()
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
            self._record(now, max(now - began - (call.queue_s - queued_s), 0.0), target, permit, outcome)

    def _choose(self, now: float, call: Call) -> tuple[Target, Permit | None]:
        untried: list[Target] = []
        tried: list[Target] = []
        ejected: list[Target] = []
        for target in self._targets:
            breaker = target.breaker
            if breaker is not None and breaker.state != "closed" and not breaker.would_allow(now):
                continue
            if target.is_out and not self._is_restored(now, target):
                ejected.append(target)
            elif target.address in call.avoid:
                tried.append(target)
            else:
                untried.append(target)
        candidates = untried or self._second_best(call, tried, ejected)
        if not candidates:
            self._reject(now, call)
        chosen = candidates[self._picker(now, [target.load for target in candidates])] if len(candidates) > 1 else candidates[0]
        breaker = chosen.breaker
        if breaker is None:
            return chosen, None
        before = breaker.state
        permit = breaker.allow(now)
        if breaker.state != before:
            report_change(self._observer, self._upstream, breaker.state, chosen.address)
        return chosen, permit

    @staticmethod
    def _second_best(call: Call, tried: list[Target], ejected: list[Target]) -> list[Target]:
        if ejected and all(target.health.consecutive for target in tried):
            untried = [target for target in ejected if target.address not in call.avoid]
            return untried or tried or ejected
        return tried or ejected

    def _is_restored(self, now: float, target: Target) -> bool:
        if target.health.is_ejected(now):
            return False
        target.is_out = False
        self._report("restore", "time", target.address)
        return True

    def _reject(self, now: float, call: Call) -> None:
        if not self._targets:
            raise ResolveError("the service has no address")
        if call.notes is not None:
            call.notes.append("the breakers of all addresses are open: nothing was sent")
        wait_s = min(target.breaker.retry_after_s(now) for target in self._targets if target.breaker is not None)
        raise BreakerOpen("the circuit breakers for all addresses of the service are open", retry_after_s=wait_s)

    def _record(self, now: float, elapsed_s: float, target: Target, permit: Permit | None, outcome: Judgement) -> None:
        target.load.end(now, elapsed_s, is_ok=None if outcome == "ignore" else outcome == "success")
        breaker = target.breaker
        if breaker is not None and permit is not None:
            before = breaker.state
            breaker.record(now, permit, outcome, elapsed_s)
            if breaker.state != before:
                report_change(self._observer, self._upstream, breaker.state, target.address)
        if outcome == "ignore":
            return
        if target.is_out and outcome == "success" and target.health.recover(now, elapsed_s):
            target.is_out = False
            self._report("restore", "success", target.address)
        is_failure = outcome == "failure"
        everyone = (other.health for other in self._targets)
        if self._detector.record(now, target.health, is_failure=is_failure, elapsed_s=elapsed_s, everyone=everyone):
            target.is_out = True
            self._report("eject", "failures", target.address)

    def _report(self, kind: Literal["eject", "restore"], reason: str, address: Address) -> None:
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind=kind, reason=reason, address=address))


def build(next_: Policy, upstream: UpstreamPlan, tools: Tools) -> BalanceLayer | None:
    """Built where an address is chosen for each attempt. Then each address has a breaker of its own."""
    if not upstream.is_balanced:
        return None
    breaker = upstream.breaker
    return BalanceLayer(
        next_,
        addresses=upstream.addresses,
        picker=picker_of(upstream.balance, tools.random),
        classifier=FailureClassifier(upstream.failures),
        new_breaker=None if breaker is None else lambda: breaker_of(breaker),
        clock=tools.clock,
        upstream=upstream.name,
        observer=tools.observer,
    )


def describe(upstream: UpstreamPlan) -> str | None:
    if not upstream.is_balanced:
        return None
    count = len(upstream.addresses)
    addresses = f"{count} address{'' if count == 1 else 'es'}"
    resolved = f" resolved every {format_duration(upstream.dns_ttl_s)}" if upstream.dns_ttl_s is not None else ""
    breaker = "" if upstream.breaker is None else f", each with a breaker at {rule_of(upstream.breaker)}"
    return f"balance {upstream.balance} over {addresses}{resolved}{breaker}"
