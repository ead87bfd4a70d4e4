"""The seam between the shipper and the places that records are shipped to. Two methods; anything that has them can stand here."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from anabranch.journal.record import Record


class Shipment(msgspec.Struct, frozen=True):
    """One record on its way. `line`: as it stands in the segment, proven, without its line feed."""

    record: Record
    line: bytes


class SinkError(Exception):
    """The place cannot be reached, or did not take the records. They come again. The message is a sentence without credentials."""


class Sink(Protocol):
    """`name`: tells one place from another, also after a restart; lower-case letters, digits and `-`. A checkpoint is kept for it."""

    name: str

    async def ship(self, shipments: Sequence[Shipment]) -> int:
        """Keep these records. Returns when they are durable there: how many were new.

        Records that are there already are passed over: after a crash, some come again. Raises SinkError, and then all of them come again.
        Cancellation: some or none of them are kept.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the place. May be called twice; the next `ship` connects again."""
        ...
