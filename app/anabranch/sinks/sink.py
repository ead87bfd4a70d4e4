"""The interface between the shipper and the systems that it ships to. Any class with its two methods can be a sink."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from anabranch.journal.record import Record


class Shipment(msgspec.Struct, frozen=True):
    """One record to ship. `line`: as stored in the segment, verified, without its line feed."""

    record: Record
    line: bytes


class SinkError(Exception):
    """The sink cannot be reached, or did not accept the records. They are shipped again. The message must not contain credentials."""


class Sink(Protocol):
    """`name`: identifies the target, also after a restart; lower-case letters, digits and `-`. The checkpoint is kept under this name."""

    name: str

    async def ship(self, shipments: Sequence[Shipment]) -> int:
        """Store these records. Returns when they are durable: how many of them were new.

        Records that are already stored are skipped: after a crash, some are shipped again. Raises SinkError; all of them are then shipped
        again. Cancellation: some, all or none of them are stored.
        """
        ...

    async def aclose(self) -> None:
        """Disconnect. May be called twice; the next `ship` connects again."""
        ...
