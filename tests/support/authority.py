"""An authority in place of a transport to one, and what a client presents."""

import asyncio
import math
from dataclasses import dataclass, field

from anabranch.core.exchange import Address, Answer, Request
from anabranch.plan.upstream import UpstreamPlan


@dataclass
class Presented:
    """What a request presents."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    query: bytes = b""
    certificate: None = None


def bearing(token: str) -> Presented:
    return Presented({b"authorization": f"Bearer {token}".encode()})


class Authority:
    """Answers every request with `body`, or with what `bodies` has for its target, after `delay_s`; raises `failure` if it is set. `asked`: URLs, in order."""

    def __init__(self, body: bytes = b"") -> None:
        self.body = body
        self.bodies: dict[str, bytes] = {}
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.failure: Exception | None = None
        self.delay_s = 0.1
        self.asked: list[str] = []
        self.requests: list[Request] = []
        self.plan: UpstreamPlan | None = None
        self.is_closed = False

    def open(self, plan: UpstreamPlan) -> "Authority":
        self.plan = plan
        return self

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        self.asked.append(f"{address.origin}{request.target}")
        self.requests.append(request)
        body, status, headers = self.bodies.get(request.target, self.body), self.status, self.headers
        assert math.isfinite(deadline)
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        return Answer(status=status, headers=headers, body=body)

    async def aclose(self) -> None:
        self.is_closed = True
