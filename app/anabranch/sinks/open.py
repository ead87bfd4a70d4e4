"""Creates the sinks that a document configures. The only module that knows all kinds of them."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from anabranch.config.journal import Journal
from anabranch.config.journal import Sink as Config
from anabranch.core.metric import Sample
from anabranch.errors import MissingExtraError
from anabranch.journal.segment import Segment
from anabranch.sinks.shipper import Shipper
from anabranch.sinks.sink import Sink


def open_sink(config: Config) -> Sink:
    """Create a sink, not connected yet. Raises MissingExtraError."""
    if find_spec("asyncpg") is None:
        raise MissingExtraError("a PostgreSQL sink", "postgres")
    from anabranch.sinks.postgres import PostgresSink  # noqa: PLC0415 - its library is an extra

    return PostgresSink(config.postgres)


class Shippers:
    """The shippers of one document's journal. An async context manager. The constructor raises MissingExtraError."""

    def __init__(self, config: Journal, folder: Path | None = None) -> None:
        folder = Path(config.path) if folder is None else folder
        self.each = tuple(Shipper(folder, open_sink(sink), interval_s=sink.postgres.interval_s) for sink in config.sinks)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for shipper in self.each:
                await exits.enter_async_context(shipper)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        for shipper in self.each:
            yield from shipper.samples()

    def notes(self) -> Iterator[str]:
        """What readiness says of sinks that are unavailable. It does not affect readiness: nothing is lost, and no request waits. The reasons, which
        come from the sink, are only logged."""
        away = [shipper.name for shipper in self.each if shipper.counters.trouble is not None]
        if away:
            yield f"the journal cannot be shipped to {', '.join(away)} now; its records wait on disk"

    def is_needed(self, segment: Segment) -> bool:
        """Whether part of a segment has still to be shipped to some sink. Blocking."""
        return any(shipper.is_needed(segment) for shipper in self.each)
