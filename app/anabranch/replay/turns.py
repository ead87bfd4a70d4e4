"""Finishes replayed steps in their recorded order. Needed only when a failure, or the first answer of several steps, cancelled the others.

Replayed steps take none of their recorded time, so without this a different failure could come first. Requests without a failure do not
wait. Uses only the times in a record.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

from anabranch.journal.record import Record, Step

Turn = tuple[float, int]
"""When a step ended: milliseconds since the request arrived, and its position in the document, which breaks ties."""

UNKNOWN_FUNCTION: Final[Turn] = (inf, 0)
"""Turn of a compute that had not ended when the failure decided the response: after all steps that had."""
UNKNOWN_CALL: Final[Turn] = (inf, 1)
"""Turn of such a call: after those computes too, because there is no recorded answer for it."""

# Turns of the event loop from the end of a step until its consequences have happened: the others are cancelled (two turns), or steps that
# depend on it begin.
_SETTLING: Final = 4


class Turns:
    """The order of one record's steps. The code that runs a step wraps it in `running`, and awaits `wait` before the step ends.

    A step waits only for earlier ones, so there is no deadlock.
    """

    __slots__ = ("_ended", "_is_ordered", "_left", "_of", "_running")

    def __init__(self, record: Record) -> None:
        self._is_ordered = record.failure is not None or any(step.answered_by for step in record.steps)
        self._of: dict[str, Turn] = {}
        if self._is_ordered:
            self._of = {step.name: (step.started_ms + step.elapsed_ms, position) for position, step in enumerate(record.steps)}
        self._running: list[Turn] = []
        self._ended = 0
        self._left = asyncio.Event()

    def of(self, step: Step | None, unknown: Turn) -> Turn:
        """Return the turn of a recorded step; `unknown` for one that is not in the record."""
        return unknown if step is None else self._of.get(step.name, unknown)

    @contextmanager
    def running(self, turn: Turn) -> Iterator[None]:
        """Later steps wait while the block runs."""
        self._running.append(turn)
        try:
            yield
        finally:
            self._running.remove(turn)
            self._ended += 1
            self._left.set()
            self._left.clear()

    async def wait(self, turn: Turn) -> None:
        """Return when no step is running that ended earlier in the record."""
        while self._is_ordered:
            ended = self._ended
            for _ in range(_SETTLING):
                await asyncio.sleep(0)
            if any(other < turn for other in self._running):
                await self._left.wait()
            elif self._ended == ended:
                return
