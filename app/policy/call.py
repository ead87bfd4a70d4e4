"""One call on its way through the policy layers, and the shape that every layer has."""

from collections.abc import Awaitable, Callable

from app.core.exchange import Address, Answer, Request


class Call:
    """What the layers know about one call, and what they write down about it. Lives as long as the step.

    Given: `request`; `deadline` (absolute, loop time: the smaller of the step's own timeout and the request's deadline);
    `is_idempotent`; `is_required` (an optional call is shed first when an upstream is under pressure).
    Written by the layers: `attempts` (exchanges begun), `queue_s` (seconds spent waiting in the bulkhead, summed over attempts),
    `address` (of the last attempt), `is_hedged` (a hedge was sent), `notes` (what a policy did, in order, for explain).
    """

    __slots__ = ("address", "attempts", "deadline", "is_hedged", "is_idempotent", "is_required", "notes", "queue_s", "request")

    def __init__(self, request: Request, *, deadline: float, is_idempotent: bool, is_required: bool) -> None:
        self.request = request
        self.deadline = deadline
        self.is_idempotent = is_idempotent
        self.is_required = is_required
        self.attempts = 0
        self.queue_s = 0.0
        self.address: Address | None = None
        self.is_hedged = False
        self.notes: list[str] | None = None

    def note(self, text: str) -> None:
        if self.notes is None:
            self.notes = []
        self.notes.append(text)


# A layer is made once, around the next one, when the stack of an upstream is built. It returns an answer of any status or raises
# a StepError. A layer that has nothing to do for this upstream is not built.
Policy = Callable[[Call], Awaitable[Answer]]
