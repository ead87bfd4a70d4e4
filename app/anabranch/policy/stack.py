"""Builds the policy layers of an upstream. Only this module defines their order.

Outermost first:

    coalesce    shares one call between identical concurrent calls; the layers below run once for all of them
    cache       answers from stored answers, and with the last good one when the layers below have failed
    retry       retries a failed call; each retry passes through the layers below again
    hedge       runs a second attempt beside a slow first one
    balance     chooses the address of the attempt; keeps a breaker for each address and ejects outliers
    breaker     the breaker of an upstream with a single address
    judge       refuses good answers that the document does not expect, where that counts as a failure
    bulkhead    waits for one of the upstream's slots (fixed or adaptive limit)
    token       adds the bearer token, and fetches a new one when the upstream rejects it
    client_token  adds the client's own token
    pace        waits for the attempt's turn, so that the upstream is not called more often than its rate allows
    attempt     one exchange, limited by its own timeout and the call's deadline

A layer with nothing to do for an upstream is not built. Why this order: docs/decisions/0002-order-of-policies.md.
"""

from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

from anabranch.core.breaker import Breaker
from anabranch.core.metric import Sample, Sampled
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy import attempt, balance, breaker, bulkhead, cache, client_token, coalesce, hedge, judge, pace, retry, token
from anabranch.policy.balance import BalanceLayer
from anabranch.policy.breaker import BreakerLayer
from anabranch.policy.bulkhead import Bulkhead, BulkheadLayer
from anabranch.policy.call import Policy
from anabranch.policy.coalesce import CoalesceLayer
from anabranch.policy.tools import Tools

L = TypeVar("L")


class Layer(Protocol):
    """A module of this folder that can build one layer of a stack, and say what it would build."""

    def build(self, next_: Policy, upstream: UpstreamPlan, tools: Tools) -> Policy | None:
        """The layer around `next_`; None where it has nothing to do for this upstream."""
        ...

    def describe(self, upstream: UpstreamPlan) -> str | None:
        """Its name and key figures, without secrets; None where it would not be built."""
        ...


class Innermost(Protocol):
    """The module of the innermost layer."""

    def build(self, upstream: UpstreamPlan, tools: Tools) -> Policy: ...

    def describe(self, upstream: UpstreamPlan) -> str: ...


LAYERS: Final[tuple[Layer, ...]] = (coalesce, cache, retry, hedge, balance, breaker, judge, bulkhead, token, client_token, pace)
"""Outermost first."""
INNERMOST: Final[Innermost] = attempt


@runtime_checkable
class _Closing(Protocol):
    def aclose(self) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of one upstream, ready to be called. `call`: the outermost one. `layers`: those that were built, outermost first."""

    name: str
    call: Policy
    layers: tuple[object, ...]

    def find(self, kind: type[L]) -> L | None:
        """The layer of this class; None if it was not built."""
        return next((layer for layer in self.layers if isinstance(layer, kind)), None)

    @property
    def bulkhead(self) -> Bulkhead:
        layer = self.find(BulkheadLayer)
        assert layer is not None, "every stack has one"
        return layer.bulkhead

    @property
    def coalesce(self) -> CoalesceLayer:
        layer = self.find(CoalesceLayer)
        assert layer is not None, "every stack has one"
        return layer

    @property
    def balance(self) -> BalanceLayer | None:
        """Its addresses may be swapped by a resolver."""
        return self.find(BalanceLayer)

    @property
    def breaker(self) -> Breaker | None:
        """Of the only address; with several they are in `balance.targets`."""
        layer = self.find(BreakerLayer)
        return None if layer is None else layer.breaker

    def would_allow(self, now: float) -> bool:
        """Whether a breaker would let a call through that starts now; true without breakers. Changes nothing."""
        if self.balance is not None:
            breakers = [target.breaker for target in self.balance.targets]
            return any(breaker is None or breaker.would_allow(now) for breaker in breakers) or not breakers
        return self.breaker is None or self.breaker.would_allow(now)

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`: of the layers."""
        for layer in self.layers:
            if isinstance(layer, Sampled):
                yield from layer.samples()

    async def aclose(self) -> None:
        """End what the layers themselves still run, outermost first. The transports belong to the caller. May be called twice."""
        for layer in self.layers:
            if isinstance(layer, _Closing):
                await layer.aclose()


def build_stack(upstream: UpstreamPlan, tools: Tools) -> Stack:
    """Build the layers of an upstream around its transport."""
    policy = INNERMOST.build(upstream, tools)
    built: list[object] = [policy]
    for layer in reversed(LAYERS):
        made = layer.build(policy, upstream, tools)
        if made is not None:
            policy = made
            built.append(made)
    return Stack(name=upstream.name, call=policy, layers=tuple(reversed(built)))


def describe(upstream: UpstreamPlan) -> list[str]:
    """The layers that `build_stack` would build, outermost first: name and key figures of each. Contains no secrets."""
    lines = [line for layer in LAYERS if (line := layer.describe(upstream)) is not None]
    return [*lines, INNERMOST.describe(upstream)]
