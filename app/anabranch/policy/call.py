"""One call on its way through the policy layers, and the shape that every layer has."""

from collections.abc import Awaitable, Callable

from anabranch.core.exchange import Address, Answer, Request, StaleRule


class Call:
    """What the layers know about one call, and what they write down about it. Lives as long as the step.

    Given: `request`; `deadline` (absolute, loop time: the smaller of the step's own timeout and the request's deadline);
    `is_idempotent`; `is_required` (an optional call is shed first when an upstream is under pressure); `is_coalesced` (identical
    calls may share one exchange); `stale` (how it may be answered when it fails; None: not at all); `is_traced` (somebody will read `notes`; otherwise none are taken).

    Written by the layers: `attempts` (exchanges begun), `queue_s` (seconds spent waiting in the bulkhead, summed over attempts),
    `address` (of the last attempt), `avoid` (addresses that attempts of this call have used: the balancer takes another one where
    there is one), `is_hedged` (a hedge was sent), `stale_age_s` (seconds since the answer was fresh that stands in for a failure; None for an answer
    to this very call), `notes` (what a policy did, in order, for explain; None when not traced).
    """

    __slots__ = (
        "address",
        "attempts",
        "avoid",
        "deadline",
        "is_coalesced",
        "is_hedged",
        "is_idempotent",
        "is_required",
        "notes",
        "queue_s",
        "request",
        "stale",
        "stale_age_s",
    )

    def __init__(
        self,
        request: Request,
        *,
        deadline: float,
        is_idempotent: bool,
        is_required: bool,
        is_coalesced: bool = False,
        wants_notes: bool = False,
        stale: StaleRule | None = None,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.is_idempotent = is_idempotent
        self.is_required = is_required
        self.is_coalesced = is_coalesced
        self.attempts = 0
        self.queue_s = 0.0
        self.address: Address | None = None
        self.avoid: tuple[Address, ...] = ()
        self.is_hedged = False
        self.stale = stale
        self.stale_age_s: float | None = None
        self.notes: list[str] | None = [] if wants_notes else None

    def note(self, text: str) -> None:
        """Write `text` down when the call is traced. Where `text` costs something to make, ask `call.notes is not None` first."""
        if self.notes is not None:
            self.notes.append(text)

    def fork(self) -> "Call":
        """A second call for the same request, for an attempt that runs beside this one and must not share its `address`.

        It goes on counting from this one's `attempts`, shares its `notes` and starts with no time queued.
        """
        twin = Call(self.request, deadline=self.deadline, is_idempotent=self.is_idempotent, is_required=self.is_required, stale=self.stale)
        twin.attempts = self.attempts
        twin.avoid = self.avoid
        twin.notes = self.notes
        return twin


# A layer is made once, around the next one, when the stack of an upstream is built. It returns an answer of any status or raises
# a StepError. A layer that has nothing to do for this upstream is not built.
Policy = Callable[[Call], Awaitable[Answer]]
