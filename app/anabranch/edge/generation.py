"""What a reload replaces together, and the requests that still run on it."""

import asyncio
from typing import TYPE_CHECKING

from anabranch.edge.table import RouteTable
from anabranch.plan.model import DocumentPlan

if TYPE_CHECKING:
    from anabranch.edge.endpoint import EndpointHandler


class Generation:
    """The endpoints of one document, in force from its load to the next. `active`: requests in flight on it. `document`: None before the
    first load."""

    __slots__ = ("_idle", "active", "document", "table")

    def __init__(self, table: "RouteTable[EndpointHandler]", document: DocumentPlan | None) -> None:
        self.table = table
        self.document = document
        self.active = 0
        self._idle: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Count a request as finished."""
        self.active -= 1
        if not self.active and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def drained(self) -> None:
        """Wait until no request is in flight on this generation. Call it after the generation was replaced, when no new requests can start."""
        if self.active:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
