"""Chooses the address of each attempt among several, and keeps what is known of each: load, breaker, health.

How one is preferred to another is a picker's business (`anabranch.core.balance`); what makes one unfit, that of its breaker and of the
outlier detector. Where the addresses come from is not known here: `set_addresses` swaps them while calls are under way.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from anabranch.core.balance import Load, Picker
from anabranch.core.breaker import Breaker, Judgement, Permit
from anabranch.core.exchange import Address, Answer
from anabranch.core.outlier import OutlierDetector, TargetHealth
from anabranch.errors import BreakerOpen, ResolveError
from anabranch.policy.breaker import FailureClassifier, tell_change
from anabranch.policy.call import Call, Policy
from anabranch.policy.event import Observer, PolicyEvent


class Target:
    """One address and what is known of it. `breaker`: None where the document asks for none. `is_out`: ejected, and not yet back."""

    __slots__ = ("address", "breaker", "health", "is_out", "load")

    def __init__(self, address: Address, breaker: Breaker | None) -> None:
        self.address = address
        self.breaker = breaker
        self.load = Load()
        self.health = TargetHealth()
        self.is_out = False


class BalanceLayer:
    """Writes an address to `call.address` and `call.avoid` for the layers below, and learns from how the attempt ended.

    Whom it offers to the picker: the addresses that are not ejected, whose breaker allows a call, and that are not in `call.avoid`;
    if there are none, those that are in it, unless the last exchange of each of them failed and an ejected one has not been tried for
    this call: that one may be well again by now, and they are not. If there are none of these either, any ejected one. When all breakers
    are open it raises BreakerOpen with the smallest `retry_after_s`, without touching anything further in.

    Attempts that run side by side need a call each (`Call.fork`): they must not share `call.address`. Time that an attempt spent waiting
    for a place is not counted as time that the address took.

    Cancellation: the permit goes back; breaker and health learn nothing. Cost: O(addresses) for each attempt.
    """

    __slots__ = ("_clock", "_detector", "_judge", "_new_breaker", "_next", "_observer", "_picker", "_targets", "_upstream")

    def __init__(
        self,
        next_: Policy,
        *,
        addresses: Iterable[Address],
        picker: Picker,
        judge: FailureClassifier,
        new_breaker: Callable[[], Breaker] | None,
        clock: Callable[[], float],
        upstream: str,
        observer: Observer | None = None,
    ) -> None:
        """`new_breaker`: makes the breaker of an address; None where the document asks for none."""
        self._next = next_
        self._picker = picker
        self._judge = judge
        self._new_breaker = new_breaker
        self._clock = clock
        self._upstream = upstream
        self._observer = observer
        self._detector = OutlierDetector()
        self._targets: tuple[Target, ...] = ()
        self._replace(addresses)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The addresses in use and what is known of them, to look at."""
        return self._targets

    def set_addresses(self, addresses: Iterable[Address]) -> None:
        """Use these from the next attempt on. Those that stay keep what is known of them; attempts under way end where they began."""
        if self._replace(addresses) and self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind="balance", reason="addresses"))

    def _replace(self, addresses: Iterable[Address]) -> bool:
        known = {target.address: target for target in self._targets}
        fresh = tuple(known.get(address) or self._new_target(address) for address in dict.fromkeys(addresses))
        has_changed = fresh != self._targets
        self._targets = fresh
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
            outcome = self._judge.error(error)
            raise
        else:
            outcome = self._judge.answer(answer.status)
            return answer
        finally:
            now = self._clock()
            self._learn(now, max(now - began - (call.queue_s - queued_s), 0.0), target, permit, outcome)

    def _choose(self, now: float, call: Call) -> tuple[Target, Permit | None]:
        fresh: list[Target] = []
        again: list[Target] = []
        ejected: list[Target] = []
        for target in self._targets:
            breaker = target.breaker
            if breaker is not None and breaker.state != "closed" and not breaker.would_allow(now):
                continue
            if target.is_out and not self._is_back(now, target):
                ejected.append(target)
            elif target.address in call.avoid:
                again.append(target)
            else:
                fresh.append(target)
        candidates = fresh or self._second_best(call, again, ejected)
        if not candidates:
            self._reject(now, call)
        chosen = candidates[self._picker(now, [target.load for target in candidates])] if len(candidates) > 1 else candidates[0]
        breaker = chosen.breaker
        if breaker is None:
            return chosen, None
        before = breaker.state
        permit = breaker.allow(now)
        if breaker.state != before:
            tell_change(self._observer, self._upstream, breaker.state, chosen.address)
        return chosen, permit

    @staticmethod
    def _second_best(call: Call, again: list[Target], ejected: list[Target]) -> list[Target]:
        if ejected and all(target.health.consecutive for target in again):
            untried = [target for target in ejected if target.address not in call.avoid]
            return untried or again or ejected
        return again or ejected

    def _is_back(self, now: float, target: Target) -> bool:
        if target.health.is_ejected(now):
            return False
        target.is_out = False
        self._tell("restore", "time", target.address)
        return True

    def _reject(self, now: float, call: Call) -> None:
        if not self._targets:
            raise ResolveError("the service has no address")
        if call.notes is not None:
            call.notes.append("breakers of all addresses open: nothing was sent")
        wait_s = min(target.breaker.retry_after_s(now) for target in self._targets if target.breaker is not None)
        raise BreakerOpen("every instance of the service is left alone until it recovers", retry_after_s=wait_s)

    def _learn(self, now: float, elapsed_s: float, target: Target, permit: Permit | None, outcome: Judgement) -> None:
        target.load.end(now, elapsed_s, is_ok=None if outcome == "ignore" else outcome == "success")
        breaker = target.breaker
        if breaker is not None and permit is not None:
            before = breaker.state
            breaker.record(now, permit, outcome, elapsed_s)
            if breaker.state != before:
                tell_change(self._observer, self._upstream, breaker.state, target.address)
        if outcome == "ignore":
            return
        if target.is_out and outcome == "success" and target.health.recover(now, elapsed_s):
            target.is_out = False
            self._tell("restore", "success", target.address)
        is_failure = outcome == "failure"
        everyone = (other.health for other in self._targets)
        if self._detector.record(now, target.health, is_failure=is_failure, elapsed_s=elapsed_s, everyone=everyone):
            target.is_out = True
            self._tell("eject", "failures", target.address)

    def _tell(self, kind: Literal["eject", "restore"], reason: str, address: Address) -> None:
        if self._observer is not None:
            self._observer(PolicyEvent(upstream=self._upstream, kind=kind, reason=reason, address=address))
