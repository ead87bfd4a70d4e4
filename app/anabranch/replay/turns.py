"""Who ends first, when a recorded request is run again: where a failure decided the response and everything else was cancelled, its steps
must end in the order of then, though nothing takes the time that it took. Other requests do not need it, and wait for nothing.

Knows the times in a record; nothing of calls and functions.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

from anabranch.journal.record import Record, Step

Turn = tuple[float, int]
"""When a step ended: milliseconds since the request began, and its place in the document, which decides between equal ones."""

UNKNOWN_FUNCTION: Final[Turn] = (inf, 0)
"""Of a compute that had not ended when the failure decided: after all that had."""
UNKNOWN_CALL: Final[Turn] = (inf, 1)
"""The same of a call: also after such computes, because there is nothing that it could be answered with."""

# Turns of the loop after the end of a step until what it brings about has happened: all is cancelled (two), or steps begin that needed it.
_SETTLING: Final = 4


class Turns:
    """The order of one record's steps. Whoever runs a step says so by `running`, and awaits `come` before it ends.

    Nobody waits for a later one, so nobody waits for ever.
    """

    __slots__ = ("_ended", "_is_ordered", "_left", "_of", "_running")

    def __init__(self, record: Record) -> None:
        self._is_ordered = record.failure is not None
        self._of: dict[str, Turn] = {}
        if self._is_ordered:
            self._of = {step.name: (step.started_ms + step.elapsed_ms, place) for place, step in enumerate(record.steps)}
        self._running: list[Turn] = []
        self._ended = 0
        self._left = asyncio.Event()

    def of(self, step: Step | None, unknown: Turn) -> Turn:
        """The turn of a recorded step; `unknown` for one that is not in the record."""
        return unknown if step is None else self._of.get(step.name, unknown)

    @contextmanager
    def running(self, turn: Turn) -> Iterator[None]:
        """For as long as the block runs, later ones wait."""
        self._running.append(turn)
        try:
            yield
        finally:
            self._running.remove(turn)
            self._ended += 1
            self._left.set()
            self._left.clear()

    async def come(self, turn: Turn) -> None:
        """Return when nothing runs that ended earlier then."""
        while self._is_ordered:
            ended = self._ended
            for _ in range(_SETTLING):
                await asyncio.sleep(0)
            if any(other < turn for other in self._running):
                await self._left.wait()
            elif self._ended == ended:
                return
