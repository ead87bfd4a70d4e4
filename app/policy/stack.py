"""The order of the policy layers. This is the only module that knows it; reading it is reading how a call is protected.

Outermost first:

    coalesce    identical calls that run at the same time become one; all that follows is done once for them
    retry       tries again what failed; every further attempt passes through all that follows anew
    hedge       runs a second attempt beside a slow first one
    balance     chooses the attempt's address; holds one breaker for each address and ejects outliers
    breaker     the same for an upstream with a single address
    bulkhead    waits for one of the upstream's places (fixed or adaptive limit)
    token       puts the bearer token on
    attempt     one exchange, with its own timeout and the deadline that is left

A layer with nothing to do for an upstream is not built. Why this order: docs/decisions/0002-order-of-policies.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.config import model as config
from app.core.limit import FixedLimit
from app.policy.attempt import AttemptLayer
from app.policy.bulkhead import Bulkhead, BulkheadLayer
from app.policy.call import Policy
from app.policy.event import Observer
from app.upstream.seam import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of one upstream, ready to be called, and handles to look into them.

    `call`: the outermost layer. `layers`: the names of those that were built, outermost first.
    """

    name: str
    call: Policy
    layers: tuple[str, ...]
    bulkhead: Bulkhead

    async def aclose(self) -> None:
        """End whatever the layers still run. The transport belongs to the caller. May be called twice."""


def build_stack(
    name: str,
    upstream: config.Upstream,
    transport: Transport,
    *,
    clock: Callable[[], float],
    random: Callable[[], float],
    observer: Observer | None = None,
) -> Stack:
    """Build the layers of the upstream called `name` around `transport`.

    `clock`: the loop's `time`, the one that deadlines are measured by. `random`: draws from [0, 1).
    """
    addresses = upstream.addresses
    layers = ["attempt"]
    policy: Policy = AttemptLayer(
        transport,
        address=addresses[0] if len(addresses) == 1 else None,
        timeout_s=upstream.timeout_s,
        deadline_header=upstream.deadline_header.lower().encode() if upstream.deadline_header else None,
        clock=clock,
        upstream=name,
        observer=observer,
    )
    bulkhead = BulkheadLayer(
        policy,
        limit=FixedLimit(upstream.concurrency.limit),
        queue=upstream.concurrency.queue,
        queue_timeout_s=upstream.concurrency.queue_timeout_s,
        clock=clock,
        upstream=name,
        observer=observer,
    )
    policy = bulkhead
    layers.append("bulkhead")
    return Stack(name=name, call=policy, layers=tuple(reversed(layers)), bulkhead=bulkhead.bulkhead)
