"""Counts refused connections, and logs some of them: a client that sends garbage sends a lot."""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final

import structlog

from anabranch.core.metric import Sample, metric
from anabranch.engine.event import Refusal
from anabranch.errors import RefusedRequest

REFUSED: Final = metric(
    "counter", "refused_connections", "reason",
    "Connections closed because of a request that could not be read. `reason`: `malformed_request` (400), `head_timeout` (408), "
    "`target_too_long` (414), `expectation_failed` (417), `head_too_large` (431), `not_implemented` (501), `version_not_supported` (505). These "
    "requests are in no other metric, unless the body was malformed.",
)  # fmt: skip

PAUSE_S: Final = 10.0
"""Minimum seconds between two log events with the same reason."""


class Refusals:
    """Called with each refusal. `counts`: by the problem's code. `events`: where the log events go; None: nothing is logged.

    The first refusal of each reason is logged at once, the next one after `PAUSE_S` at the earliest. It says how many were left out in
    between.
    """

    def __init__(self, events: structlog.typing.FilteringBoundLogger | None, now: Callable[[], float] = monotonic) -> None:
        self.counts = {kind.code: 0 for kind in RefusedRequest.__subclasses__()}
        self._events = events
        self._now = now
        self._logged: dict[str, tuple[float, int]] = {}

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        return (Sample(REFUSED, (reason,), count) for reason, count in self.counts.items())

    def __call__(self, refusal: Refusal) -> None:
        code = refusal.code
        self.counts[code] += 1
        if self._events is None:
            return
        count, now = self.counts[code], self._now()
        logged_at, logged_count = self._logged.get(code, (now - PAUSE_S, 0))
        if now - logged_at < PAUSE_S:
            return
        self._logged[code] = (now, count)
        self._events.warning(
            "refused",
            code=code,
            status=refusal.status,
            detail=refusal.detail,
            client=None if refusal.client is None else _address(*refusal.client),
            left_out=count - logged_count - 1,
            request_id=refusal.request_id,
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
