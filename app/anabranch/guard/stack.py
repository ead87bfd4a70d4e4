"""The order of the guards. This is the only module that knows it; reading it is reading what may stop a request before any step runs.

A guard that has nothing to do for an endpoint is not built. To add one: a module with `build`, and a line in `GUARDS`. A guard may also be `core.metric.Sampled`.
"""

from collections.abc import Callable
from typing import Final, Protocol

from anabranch.engine.request import ClientRequest
from anabranch.guard import concurrency
from anabranch.plan.model import EndpointPlan


class Guard(Protocol):
    """Admits the requests of one endpoint, one after the other or side by side."""

    async def __call__(self, request: ClientRequest) -> None:
        """Return to admit the request. Raises RequestError, with the status and header fields of the rejection.

        A guard that holds something for an admitted request releases it by `request.on_end`. Cancellation: it must hold nothing afterwards.
        """
        ...


GUARDS: Final[list[Callable[[EndpointPlan], Guard | None]]] = [concurrency.build]


def build_guards(plan: EndpointPlan) -> tuple[Guard, ...]:
    """The guards of one endpoint, in the order in which they are asked. Called once, when the document is loaded."""
    return tuple(guard for build in GUARDS if (guard := build(plan)) is not None)
