"""Proves the lines of a segment one by one: every reader of a segment's lines goes through here."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from anabranch.journal.record import Head, RecordError, check, read_head


class Line(NamedTuple):
    """One line of a segment. `raw`: with its line feed. `head`: None when the line is damaged, or torn.

    Torn: it has no line feed. It may be the last one of a segment that is just being written.
    """

    raw: bytes
    head: Head | None

    @property
    def content(self) -> bytes:
        """Without the line feed."""
        return self.raw[:-1]

    @property
    def is_torn(self) -> bool:
        return self.raw[-1:] != b"\n"


def proven(raws: Iterable[bytes]) -> Iterator[Line]:
    """Each line with its head, if its checksum and its format are right. A torn line is the last one."""
    for raw in raws:
        if raw[-1:] != b"\n":
            yield Line(raw, None)
            return
        content = raw[:-1]
        try:
            check(content)
            head = read_head(content)
        except RecordError:
            yield Line(raw, None)
        else:
            yield Line(raw, head)
