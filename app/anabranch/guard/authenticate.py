"""Asks the clients of an endpoint who they are."""

from typing import Literal

from anabranch.engine.request import ClientRequest
from anabranch.guard.auth.checkpoint import Checkpoint
from anabranch.guard.guarding import Guarding
from anabranch.plan.model import EndpointPlan


class AuthenticationGuard:
    """Admits requests with a principal, and fills the references to it."""

    stage: Literal["head"] = "head"

    def __init__(self, checkpoint: Checkpoint, plan: EndpointPlan) -> None:
        assert plan.access is not None
        self._checkpoint = checkpoint
        self._fill = plan.access.fill

    async def __call__(self, request: ClientRequest) -> None:
        principal = request.principal or self._checkpoint.recall(request)
        if principal is None:
            assert request.arrival is not None, "a request of an endpoint with guards tells where it comes from"
            principal = await self._checkpoint.find(request, request.arrival.sender)
        request.principal = principal
        if self._fill is not None:
            self._fill(principal.value, request.frame)


def build(plan: EndpointPlan, guarding: Guarding) -> AuthenticationGuard | None:
    return None if plan.access is None else AuthenticationGuard(guarding.checkpoint(plan.access.names), plan)
