"""What the layers tell whoever watches them: one hook, one frozen value. The layers know nothing of logs, metrics or traces."""

from collections.abc import Callable
from typing import Literal

import msgspec

from anabranch.core.exchange import Address

EventKind = Literal[
    "attempt",  # an exchange ended; reason: the status of its answer, the error's code, or cancelled
    "queue",  # a call got its place after waiting
    "reject",  # a call was turned away before anything was sent; reason: the error's code
    "retry",  # a further attempt begins; reason: what the one before ended with
    "retry_denied",  # a failure is final although it could be tried again; reason: budget, deadline or queue_full, breaker_open, ...
    "hedge",  # a second attempt begins beside the first; reason: fixed, or the quantile such as p95
    "hedge_won",  # the second attempt was the first good one; reason: "", elapsed_s: how long it took
    "hedge_denied",  # the first attempt is slow, but no second one begins; reason: budget or queued
    "coalesce",  # a call joined an exchange that was under way; reason: joined, or restarted after its leader ran out of time
    "stale",  # a call that failed was answered with an earlier answer; reason: the error's code, or the status
    "breaker",  # a breaker changed; reason: its new state
    "limit",  # an adaptive limit changed; reason: the new limit
    "balance",  # the addresses changed; reason: why
    "eject",  # an address was taken out; reason: why
    "restore",  # an address came back; reason: why
    "token",  # a token was fetched, or could not be; reason: why
]


class PolicyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a layer did.

    `upstream`: its name. `kind`: what happened. `reason`: why, as a short stable word; "" when there is nothing to say.
    `elapsed_s`: how long the thing took, 0 for something that takes no time. `queue_s`: how much of that was spent in the queue.
    `attempt`: number of the call's attempt that it is about, from 1; 0 when it is about none. `address`: where to; None when
    no address was chosen yet.
    """

    upstream: str
    kind: EventKind
    reason: str = ""
    elapsed_s: float = 0.0
    queue_s: float = 0.0
    attempt: int = 0
    address: Address | None = None


# Called in the loop, in the middle of a call: it must be quick and must not raise. None instead of an observer costs nothing.
Observer = Callable[[PolicyEvent], None]
