"""Decides by the address of a client whether it may use an endpoint."""

from typing import Final, Literal

from anabranch.engine.request import ClientRequest
from anabranch.errors import Forbidden
from anabranch.guard.guarding import Guarding
from anabranch.plan.model import EndpointPlan
from anabranch.plan.rules import Networks, networks_of

REFUSED: Final = "the client's address may not use this"


class AddressGuard:
    stage: Literal["head"] = "head"

    def __init__(self, networks: Networks) -> None:
        self._admits = networks.admits

    async def __call__(self, request: ClientRequest) -> None:
        assert request.arrival is not None
        if not self._admits(request.arrival.sender.ip):
            raise Forbidden(REFUSED)


def build(plan: EndpointPlan, guarding: Guarding) -> AddressGuard | None:
    networks = networks_of(plan.source)
    return None if networks is None else AddressGuard(networks)
