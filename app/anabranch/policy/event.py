"""The events that the layers emit to an observer. The layers must not import `observe`: logs, metrics and traces use this hook."""

from collections.abc import Callable
from typing import Literal

import msgspec

from anabranch.core.exchange import Address

EventKind = Literal[
    "attempt",  # an exchange ended; reason: the response's status, the error's code, or cancelled
    "queue",  # a call got a slot after waiting
    "reject",  # a call was rejected before anything was sent; reason: the error's code
    "retry",  # another attempt begins; reason: the status or error code of the previous one
    "retry_denied",  # a retryable failure is final; reason: budget, deadline, or the code of a rejection (queue_full, breaker_open, ...)
    "hedge",  # a second attempt begins beside the first; reason: fixed, or the quantile such as p95
    "hedge_won",  # the second attempt gave the response; reason: ""
    "hedge_denied",  # the first attempt is slow, but no second one begins; reason: budget
    "coalesce",  # a call joined a shared one; reason: joined, or restarted after the first caller's deadline passed
    "stale",  # a failed call was answered with an earlier response; reason: the error's code, or the status
    "breaker",  # a breaker changed state; reason: the new state
    "limit",  # an adaptive limit changed; reason: the new limit
    "balance",  # the addresses changed; reason: addresses
    "eject",  # an address was ejected; reason: failures
    "restore",  # an ejected address is used again; reason: time, or success
    "token",  # an access token was fetched, or could not be; reason: fetched, or failed
]


class PolicyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One action of a layer.

    `upstream`: its name. `kind`: what happened. `reason`: a short stable word, "" if the kind has none.
    `elapsed_s`: how long the action took, 0 if it takes no time. `queue_s`: seconds spent in the queue.
    `attempt`: number of the call's attempt, from 1; 0 if the event is about no attempt. `address`: of the attempt; None if no address
    was chosen yet.
    """

    upstream: str
    kind: EventKind
    reason: str = ""
    elapsed_s: float = 0.0
    queue_s: float = 0.0
    attempt: int = 0
    address: Address | None = None


# Called on the event loop during a call: must be quick and must not raise. Passing None instead of an observer costs nothing.
Observer = Callable[[PolicyEvent], None]
