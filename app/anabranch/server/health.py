"""/livez and /readyz: whether the process lives, and whether it should get requests. Others say why not; this only answers."""

from collections.abc import Callable, Sequence
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Readiness(Protocol):
    """What /readyz asks."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why not ready, as sentences; also what is degraded though ready."""
        ...


Probe = Callable[[], str | None]
"""Says why not to send requests here, or what is degraded; None when there is nothing to say. It must not wait for anything."""


class Health:
    """A register of reasons not to send requests here, and of what is degraded all the same. Ready when there is no such reason."""

    __slots__ = ("_mentions", "_notes", "_probes", "_reasons")

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._probes: list[Probe] = []
        self._mentions: list[Probe] = []

    def watch(self, probe: Probe) -> None:
        """Ask `probe` whenever somebody asks whether this process is ready."""
        self._probes.append(probe)

    def mention(self, probe: Probe) -> None:
        """Ask `probe` as well, for what is degraded: it is shown, and changes nothing about readiness."""
        self._mentions.append(probe)

    def block(self, name: str, reason: str) -> None:
        """Not ready because of `reason`, until `clear(name)`."""
        self._reasons[name] = reason

    def degrade(self, name: str, reason: str) -> None:
        """Still ready, but `reason` is shown, until `clear(name)`."""
        self._notes[name] = reason

    def clear(self, name: str) -> None:
        """Take back what was said under this name. Nothing happens when there is nothing."""
        self._reasons.pop(name, None)
        self._notes.pop(name, None)

    @property
    def is_ready(self) -> bool:
        return not self._blocking()

    @property
    def reasons(self) -> Sequence[str]:
        return (*self._blocking(), *self._notes.values(), *_said(self._mentions))

    def _blocking(self) -> list[str]:
        return [*self._reasons.values(), *_said(self._probes)]


def _said(probes: list[Probe]) -> list[str]:
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
