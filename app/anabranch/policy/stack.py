"""Builds the policy layers of an upstream. Only this module defines their order.

Outermost first:

    coalesce    shares one call between identical concurrent calls; the layers below run once for all of them
    stale       answers with the last good response when the layers below have failed
    retry       retries a failed call; each retry passes through the layers below again
    hedge       runs a second attempt beside a slow first one
    balance     chooses the address of the attempt; keeps a breaker for each address and ejects outliers
    breaker     the breaker of an upstream with a single address
    bulkhead    waits for one of the upstream's slots (fixed or adaptive limit)
    token       adds the bearer token, and fetches a new one when the upstream rejects it
    attempt     one exchange, limited by its own timeout and the call's deadline

A layer with nothing to do for an upstream is not built. Why this order: docs/decisions/0002-order-of-policies.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from anabranch.config import model as config
from anabranch.core.balance import picker_of
from anabranch.core.breaker import Breaker
from anabranch.core.budget import Budget
from anabranch.core.hedging import hedge_delay
from anabranch.core.limit import AIMDLimit, FixedLimit, GradientLimit, Limit
from anabranch.policy.attempt import AttemptLayer
from anabranch.policy.balance import BalanceLayer
from anabranch.policy.breaker import BreakerLayer, FailureClassifier
from anabranch.policy.bulkhead import Bulkhead, BulkheadLayer
from anabranch.policy.call import Policy
from anabranch.policy.coalesce import CoalesceLayer
from anabranch.policy.event import Observer
from anabranch.policy.hedge import HedgeLayer
from anabranch.policy.retry import RetryLayer
from anabranch.policy.stale import StaleLayer, StaleStore
from anabranch.policy.token import TokenLayer, TokenSource
from anabranch.upstream.seam import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of one upstream, ready to be called, and the parts that metrics and tests inspect.

    `call`: the outermost layer. `layers`: the names of the built layers, outermost first. The others are None if their layer was not
    built: `balance` (a resolver may replace its addresses), `breaker` (of a single address; with several, each has one in
    `balance.targets`), the budgets, `token`.
    """

    name: str
    call: Policy
    layers: tuple[str, ...]
    bulkhead: Bulkhead
    coalesce: CoalesceLayer
    balance: BalanceLayer | None
    breaker: Breaker | None
    retry_budget: Budget | None
    hedge_budget: Budget | None
    token: TokenSource | None

    def would_allow(self, now: float) -> bool:
        """Whether a breaker would allow a call now; True without breakers. Changes nothing."""
        if self.balance is not None:
            breakers = [target.breaker for target in self.balance.targets]
            return any(breaker is None or breaker.would_allow(now) for breaker in breakers) or not breakers
        return self.breaker is None or self.breaker.would_allow(now)

    async def aclose(self) -> None:
        """Cancel the tasks that the layers own: shared calls and a token fetch. Does not close the transports; the caller owns them.
        May be called twice."""
        await self.coalesce.aclose()
        if self.token is not None:
            await self.token.aclose()


def build_stack(
    name: str,
    upstream: config.Upstream,
    transport: Transport,
    *,
    clock: Callable[[], float],
    random: Callable[[], float],
    observer: Observer | None = None,
    authority: Transport | None = None,
    stale: StaleStore | None = None,
) -> Stack:
    """Build the layers of the upstream `name` around `transport`.

    `clock`: the loop's `time`, which deadlines refer to. `random`: draws from [0, 1). `authority`: a transport for the token endpoint of
    `oauth2`; None uses the upstream's transport. `stale`: stores good responses; None if no call of the upstream has a stale rule.
    """
    layers = ["attempt"]
    is_balanced = _is_balanced(upstream)
    policy: Policy = AttemptLayer(
        transport,
        address=None if is_balanced else upstream.addresses[0],
        timeout_s=upstream.timeout_s,
        deadline_header=upstream.deadline_header.lower().encode() if upstream.deadline_header else None,
        clock=clock,
        upstream=name,
        observer=observer,
    )
    token: TokenSource | None = None
    if upstream.oauth2 is not None:
        token = TokenSource(
            authority or transport,
            token_url=upstream.oauth2.token_url,
            client_id=upstream.oauth2.client_id,
            client_secret=upstream.oauth2.client_secret,
            scope=upstream.oauth2.scope,
            audience=upstream.oauth2.audience,
            clock=clock,
            random=random,
            upstream=name,
            observer=observer,
        )
        policy = TokenLayer(policy, source=token)
        layers.append("token")
    policy = bulkhead = BulkheadLayer(
        policy,
        limit=_limit(upstream.concurrency, random),
        queue=upstream.concurrency.queue,
        queue_timeout_s=upstream.concurrency.queue_timeout_s,
        clock=clock,
        upstream=name,
        observer=observer,
    )
    layers.append("bulkhead")
    classifier = FailureClassifier((upstream.breaker or config.Breaker()).on)
    balance: BalanceLayer | None = None
    breaker: Breaker | None = None
    if is_balanced:
        policy = balance = BalanceLayer(
            policy,
            addresses=upstream.addresses,
            picker=picker_of(upstream.balance, random),
            classifier=classifier,
            new_breaker=_breakers(upstream.breaker),
            clock=clock,
            upstream=name,
            observer=observer,
        )
        layers.append("balance")
    elif (new_breaker := _breakers(upstream.breaker)) is not None:
        breaker = new_breaker()
        policy = BreakerLayer(policy, breaker=breaker, classifier=classifier, clock=clock, upstream=name, observer=observer)
        layers.append("breaker")
    hedge_budget: Budget | None = None
    if upstream.hedge is not None:
        hedge_budget = Budget.of_share(upstream.hedge.budget)
        policy = HedgeLayer(
            policy, delay=hedge_delay(upstream.hedge.after), budget=hedge_budget, clock=clock, upstream=name, observer=observer
        )
        layers.append("hedge")
    retry_budget: Budget | None = None
    if _is_retried(upstream):
        assert upstream.retry is not None
        retry_budget = Budget.of_share(upstream.retry.budget)
        policy = RetryLayer(
            policy,
            attempts=upstream.retry.attempts,
            on=upstream.retry.on,
            backoff_s=upstream.retry.backoff_s,
            max_backoff_s=upstream.retry.max_backoff_s,
            budget=retry_budget,
            clock=clock,
            random=random,
            upstream=name,
            observer=observer,
        )
        layers.append("retry")
    if stale is not None:
        policy = StaleLayer(policy, store=stale, clock=clock, upstream=name, observer=observer)
        layers.append("stale")
    # Each call decides whether it is shared; for the others, this layer costs only that check.
    policy = coalesce = CoalesceLayer(policy, clock=clock, upstream=name, observer=observer)
    layers.append("coalesce")
    return Stack(
        name=name,
        call=policy,
        layers=tuple(reversed(layers)),
        bulkhead=bulkhead.bulkhead,
        coalesce=coalesce,
        balance=balance,
        breaker=breaker,
        retry_budget=retry_budget,
        hedge_budget=hedge_budget,
        token=token,
    )


def describe(upstream: config.Upstream) -> list[str]:
    """The layers that `build_stack` would build, outermost first: name and key figures of each. Contains no secrets."""
    lines = ["coalesce identical calls that enable it"]
    if _is_retried(upstream):
        assert upstream.retry is not None
        retry = upstream.retry
        lines.append(f"retry up to {retry.attempts} attempts on {', '.join(retry.on)}, budget {_share(retry.budget)}")
    if upstream.hedge is not None:
        after = upstream.hedge.after
        lines.append(f"hedge after {after if isinstance(after, str) else _time(after)}, budget {_share(upstream.hedge.budget)}")
    breaker = upstream.breaker
    rule = (
        "" if breaker is None else f"{_share(breaker.failure_rate)} failures of {breaker.minimum_calls} calls in {_time(breaker.window_s)}"
    )
    if _is_balanced(upstream):
        count = len(upstream.addresses)
        addresses = f"{count} address{'' if count == 1 else 'es'}"
        resolved = f" resolved every {_time(upstream.dns_ttl_s)}" if upstream.dns_ttl_s is not None else ""
        lines.append(f"balance {upstream.balance} over {addresses}{resolved}" + (f", each with a breaker at {rule}" if rule else ""))
    elif breaker is not None:
        lines.append(f"breaker at {rule}, open for {_time(breaker.open_for_s)}")
    slots = upstream.concurrency
    limit = f"{slots.limit}" if slots.adaptive is None else f"{slots.limit} ({slots.adaptive}, {slots.min} to {slots.max})"
    wait = f" up to {_time(slots.queue_timeout_s)}" if slots.queue_timeout_s is not None else ""
    lines.append(f"bulkhead {limit} at once, {slots.queue} waiting{wait}")
    if upstream.oauth2 is not None:
        lines.append("token by client credentials")
    lines.append("attempt " + (f"within {_time(upstream.timeout_s)}" if upstream.timeout_s is not None else "until the deadline"))
    return lines


def _is_balanced(upstream: config.Upstream) -> bool:
    return len(upstream.addresses) > 1 or upstream.dns_ttl_s is not None


def _is_retried(upstream: config.Upstream) -> bool:
    return upstream.retry is not None and upstream.retry.attempts > 1


def _limit(slots: config.Concurrency, random: Callable[[], float]) -> Limit:
    if slots.adaptive == "gradient":
        return GradientLimit(slots.limit, minimum=slots.min, maximum=slots.max, random=random)
    if slots.adaptive == "aimd":
        return AIMDLimit(slots.limit, minimum=slots.min, maximum=slots.max)
    return FixedLimit(slots.limit)


def _breakers(breaker: config.Breaker | None) -> Callable[[], Breaker] | None:
    """A factory for breakers with the document's settings; None if the document sets none."""
    if breaker is None:
        return None
    return lambda: Breaker(
        window_s=breaker.window_s,
        failure_rate=breaker.failure_rate,
        minimum_calls=breaker.minimum_calls,
        open_for_s=breaker.open_for_s,
        probes=breaker.probes,
        slow_after_s=breaker.slow_after_s,
        slow_rate=breaker.slow_rate,
    )


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _share(ratio: float) -> str:
    return f"{ratio * 100:g}%"
