"""Decides by the `allow` of an endpoint whether the principal of a request may do this."""

from typing import Literal

from anabranch.engine.request import ClientRequest
from anabranch.errors import ConditionFailed, Forbidden
from anabranch.guard.guarding import Guarding
from anabranch.guard.tally import Tally
from anabranch.plan.condition import Condition
from anabranch.plan.model import EndpointPlan


class AllowGuard:
    """Admits requests for which the condition of the endpoint holds. What cannot be decided is not allowed."""

    def __init__(self, allow: Condition, tally: Tally, *, reads_body: bool) -> None:
        self._allow = allow
        self._tally = tally
        self.stage: Literal["parameters", "body"] = "body" if reads_body else "parameters"

    async def __call__(self, request: ClientRequest) -> None:
        try:
            is_allowed = self._allow(request.frame)
        except ConditionFailed as error:
            self._tally.undecided(request.plan.name, error.detail)
            is_allowed = False
        if not is_allowed:
            raise Forbidden("the client may not use this endpoint in this way")


def build(plan: EndpointPlan, guarding: Guarding) -> AllowGuard | None:
    access = plan.access
    if access is None or access.allow is None:
        return None
    return AllowGuard(access.allow, guarding.tally, reads_body=access.reads_body)
