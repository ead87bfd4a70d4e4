"""Decides by the `allow` of an endpoint whether the principal of a request may do this."""

import logging
from typing import Literal

from anabranch.engine.request import ClientRequest
from anabranch.errors import ConditionFailed, Forbidden
from anabranch.guard.guarding import Guarding
from anabranch.plan.condition import Condition
from anabranch.plan.model import EndpointPlan

logger = logging.getLogger("anabranch.guard")


class AllowGuard:
    """Admits requests for which the condition of the endpoint holds. What cannot be decided is not allowed."""

    def __init__(self, allow: Condition, *, reads_body: bool) -> None:
        self._allow = allow
        self.stage: Literal["parameters", "body"] = "body" if reads_body else "parameters"

    async def __call__(self, request: ClientRequest) -> None:
        try:
            is_allowed = self._allow(request.frame)
        except ConditionFailed as error:
            logger.warning("`allow` of endpoint %s: %s", request.plan.name, error.detail)
            is_allowed = False
        if not is_allowed:
            raise Forbidden("the client may not use this endpoint in this way")


def build(plan: EndpointPlan, guarding: Guarding) -> AllowGuard | None:
    access = plan.access
    return None if access is None or access.allow is None else AllowGuard(access.allow, reads_body=access.reads_body)
