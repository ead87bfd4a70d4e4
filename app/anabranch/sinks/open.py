"""Creates the sinks that a document configures. The only module that knows all kinds of them."""

from importlib.util import find_spec
from pathlib import Path

from anabranch.config.journal import Journal
from anabranch.config.journal import Sink as Config
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
    """The shippers of one document's journal. The constructor raises MissingExtraError."""

    def __init__(self, config: Journal, folder: Path | None = None) -> None:
        folder = Path(config.path) if folder is None else folder
        self.each = tuple(Shipper(folder, open_sink(sink), interval_s=sink.postgres.interval_s) for sink in config.sinks)

    def is_needed(self, segment: Segment) -> bool:
        """Whether part of a segment has still to be shipped to some sink. Blocking."""
        return any(shipper.is_needed(segment) for shipper in self.each)
