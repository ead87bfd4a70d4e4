"""Counts what was refused before it was a request, and tells the log of some of it: whoever sends garbage sends a lot."""

from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from anabranch.engine.event import Refusal
from anabranch.errors import HeadTimeout, HeadTooLarge, MalformedRequest

PAUSE_S: Final = 10.0
"""Between two events of the log about the same reason."""


class Refusals:
    """Called with each refusal. `counts`: by the problem's code. `events`: where the events go; None: nowhere.

    The first of a reason is told at once, the next one not before `PAUSE_S` are over; it says how many were left out before it.
    """

    def __init__(self, events: structlog.typing.FilteringBoundLogger | None, now: Callable[[], float] = monotonic) -> None:
        self.counts = {kind.code: 0 for kind in (MalformedRequest, HeadTooLarge, HeadTimeout)}
        self._events = events
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}

    def __call__(self, refusal: Refusal) -> None:
        code = refusal.code
        self.counts[code] += 1
        if self._events is None:
            return
        count, now = self.counts[code], self._now()
        told_at, told_count = self._told.get(code, (now - PAUSE_S, 0))
        if now - told_at < PAUSE_S:
            return
        self._told[code] = (now, count)
        self._events.warning(
            "refused",
            code=code,
            status=refusal.status,
            detail=refusal.detail,
            client=None if refusal.client is None else _address(*refusal.client),
            left_out=count - told_count - 1,
            request_id=refusal.request_id,
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
