"""The state of one call in the policy layers, and the type of a layer."""

from collections.abc import Awaitable, Callable

from anabranch.cache.rule import Caching
from anabranch.core.cached import CacheUse
from anabranch.core.exchange import ANY_2XX, Address, Answer, Request
from anabranch.core.principal import Principal

Judge = Callable[[Answer], Awaitable[None]]
"""Raises UnexpectedAnswer for a good answer that the document refuses."""


class Call:
    """The input of one call and the state that the layers record. Lives as long as the step.

    Input: `request`; `deadline` (absolute, loop time: the earlier of the step's own timeout and the request's deadline);
    `is_idempotent`; `is_required` (optional calls are shed first when an upstream is under pressure); `is_coalesced` (identical
    calls may share one exchange); `caching` (how its answer may be stored, and a stored one used; None: not at all); `wants_notes`
    (collect `notes` for explain); `success` (statuses of good answers); `judge` (judges each good answer; None: all are taken);
    `principal` (the client for whom it is made; None: nobody in particular).

    Written by the layers: `attempts` (exchanges begun), `queue_s` (seconds spent waiting in the bulkhead and for its turn, summed over attempts),
    `address` (of the last attempt), `avoid` (addresses already used by this call; the balance layer prefers others), `is_hedged` (a hedge
    was sent), `stale_age_s` (age in seconds of an earlier response that replaces a failure; None for a response to this call),
    `cache_use` (what the cache had to do with the answer; None: nothing), `is_stored` (the answer was stored: the layers inside of the cache have not seen it),
    `refuse` (removes the stored answer, which the document does not want; None: there is nothing to remove),
    `notes` (human-readable actions of the policies, in order; None without `wants_notes`).
    """

    __slots__ = (
        "address",
        "attempts",
        "avoid",
        "cache_use",
        "caching",
        "deadline",
        "is_coalesced",
        "is_hedged",
        "is_idempotent",
        "is_required",
        "is_stored",
        "judge",
        "notes",
        "principal",
        "queue_s",
        "refuse",
        "request",
        "stale_age_s",
        "success",
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
        caching: Caching | None = None,
        success: frozenset[int] = ANY_2XX,
        judge: Judge | None = None,
        principal: Principal | None = None,
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
        self.caching = caching
        self.success = success
        self.judge = judge
        self.principal = principal
        self.cache_use: CacheUse | None = None
        self.is_stored = False
        self.refuse: Callable[[], None] | None = None
        self.stale_age_s: float | None = None
        self.notes: list[str] | None = [] if wants_notes else None

    def note(self, text: str) -> None:
        """Add `text` to the notes, if they are collected. If `text` is costly to build, check `call.notes is not None` first."""
        if self.notes is not None:
            self.notes.append(text)

    def fork(self) -> "Call":
        """A second call for the same request, for a concurrent attempt that must not share this call's `address`.

        It continues from this call's `attempts`, shares its `notes`, and starts with a `queue_s` of 0.
        """
        twin = Call(
            self.request,
            deadline=self.deadline,
            is_idempotent=self.is_idempotent,
            is_required=self.is_required,
            caching=self.caching,
            success=self.success,
            judge=self.judge,
            principal=self.principal,
        )
        twin.attempts = self.attempts
        twin.avoid = self.avoid
        twin.notes = self.notes
        return twin


# A layer is built once, around the next one, with the stack of an upstream. It returns a response of any status or raises
# a StepError. A layer with nothing to do for this upstream is not built.
Policy = Callable[[Call], Awaitable[Answer]]
