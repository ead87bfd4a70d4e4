"""/livez and /readyz: whether the process lives, and whether it should get requests. Others say why not; this only answers."""

from collections.abc import Sequence
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


class Health:
    """A register of reasons not to send requests here. Ready when there is none."""

    __slots__ = ("_reasons",)

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def block(self, name: str, reason: str) -> None:
        """Not ready because of `reason`, until `clear(name)`."""
        self._reasons[name] = reason

    def clear(self, name: str) -> None:
        """Take the reason back. Nothing happens when there is none of this name."""
        self._reasons.pop(name, None)

    @property
    def is_ready(self) -> bool:
        return not self._reasons

    @property
    def reasons(self) -> Sequence[str]:
        return tuple(self._reasons.values())


def routes(health: Readiness) -> list[Route]:
    async def livez(request: Request) -> Response:
        return _answer(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        is_ready = health.is_ready
        return _answer(200 if is_ready else 503, {"status": "ready" if is_ready else "not ready", "reasons": list(health.reasons)})

    return [Route("/livez", livez, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def _answer(status: int, document: dict[str, object]) -> Response:
    return Response(orjson.dumps(document), status, {"cache-control": "no-store"}, media_type="application/json")
