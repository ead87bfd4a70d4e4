"""The order of the guards. This is the only module that knows it; reading it is reading what may stop a request before any step runs.

A guard that has nothing to do for an endpoint is not built. To add one: a module with `build`, which makes none, one or several, and a line in `GUARDS`. A guard may also be `core.metric.Sampled`.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from anabranch.engine.request import ClientRequest
from anabranch.guard import addresses, allow, authenticate, concurrency, limits
from anabranch.guard.guarding import Guarding
from anabranch.plan.model import EndpointPlan

Stage = Literal["head", "parameters", "body"]
"""When a guard is asked: as soon as there is a request; when its parameters are in the frame; when its body has been read."""


class Guard(Protocol):
    """Admits the requests of one endpoint, one after the other or side by side."""

    @property
    def stage(self) -> Stage: ...

    async def __call__(self, request: ClientRequest) -> None:
        """Return to admit the request. Raises RequestError, with the status and header fields of the rejection.

        A guard that holds something for an admitted request releases it by `request.on_end`. Cancellation: it must hold nothing afterwards.
        """
        ...


class Guards(NamedTuple):
    """The guards of one endpoint by stage, each in the order in which they are asked."""

    head: tuple[Guard, ...] = ()
    parameters: tuple[Guard, ...] = ()
    body: tuple[Guard, ...] = ()


NO_GUARDS: Final = Guards()
GUARDS: Final[list[Callable[[EndpointPlan, Guarding], Guard | Sequence[Guard] | None]]] = [
    addresses.build,
    limits.build_early,
    authenticate.build,
    limits.build_by_principal,
    concurrency.build,
    allow.build,
    limits.build_weighted,
]
"""The cheap ones first. What is rejected takes no slot, and who may not come in uses up no limit that has a cost."""


def build_guards(plan: EndpointPlan, guarding: Guarding) -> Guards:
    """The guards of one endpoint. Called once, when the document is loaded."""
    built: list[Guard] = []
    for build in GUARDS:
        made = build(plan, guarding)
        built += [] if made is None else made if isinstance(made, Sequence) else [made]
    return Guards(*(tuple(guard for guard in built if guard.stage == stage) for stage in Guards._fields))
