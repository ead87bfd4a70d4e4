"""/livez and /readyz: whether the process is alive, and whether it should receive requests. Other parts register the reasons why not."""

from collections.abc import Callable, Sequence
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Readiness(Protocol):
    """What /readyz reports."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why the process is not ready, as sentences; also what is degraded although it is ready."""
        ...


Probe = Callable[[], str | None]
"""Returns a reason not to send requests here, or what is degraded; None when there is none. It must not block."""


class Health:
    """A register of reasons not to send requests here, and of degradations. Ready when there is no such reason."""

    __slots__ = ("_mentions", "_notes", "_probes", "_reasons")

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._probes: list[Probe] = []
        self._mentions: list[Probe] = []

    def watch(self, probe: Probe) -> None:
        """Call `probe` for each readiness check. A reason that it returns makes the process not ready."""
        self._probes.append(probe)

    def mention(self, probe: Probe) -> None:
        """Call `probe` for each readiness check. A reason that it returns is shown, and does not affect readiness."""
        self._mentions.append(probe)

    def block(self, name: str, reason: str) -> None:
        """Make the process not ready because of `reason`, until `clear(name)`."""
        self._reasons[name] = reason

    def degrade(self, name: str, reason: str) -> None:
        """Show `reason`, without affecting readiness, until `clear(name)`."""
        self._notes[name] = reason

    def clear(self, name: str) -> None:
        """Remove the reason registered under this name, if any."""
        self._reasons.pop(name, None)
        self._notes.pop(name, None)

    @property
    def is_ready(self) -> bool:
        return not self._blocking()

    @property
    def reasons(self) -> Sequence[str]:
        return (*self._blocking(), *self._notes.values(), *_reasons_of(self._mentions))

    def _blocking(self) -> list[str]:
        return [*self._reasons.values(), *_reasons_of(self._probes)]


def _reasons_of(probes: list[Probe]) -> list[str]:
    return [reason for probe in probes if (reason := probe()) is not None]


def routes(health: Readiness) -> list[Route]:
    async def livez(request: Request) -> Response:
        return _answer(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        is_ready = health.is_ready
        return _answer(200 if is_ready else 503, {"status": "ready" if is_ready else "not ready", "reasons": list(health.reasons)})

    return [Route("/livez", livez, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def _answer(status: int, document: dict[str, object]) -> Response:
    return Response(orjson.dumps(document), status, {"cache-control": "no-store"}, media_type="application/json")
