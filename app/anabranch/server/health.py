"""/livez and /readyz: whether the process is alive, and whether it should receive requests. Other parts register the reasons why not."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol, Self

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anabranch.config.problems import did_you_mean
from anabranch.document.part import Noted
from anabranch.document.reload import Reloader
from anabranch.settings import wrong_setting


class Readiness(Protocol):
    """What /readyz reports."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why the process is not ready, as sentences; also what is degraded although it is ready."""
        ...


Probe = Callable[[], str | None]
"""Returns a reason not to send requests here; None when there is none. It must not block."""


class Health:
    """A register of reasons not to send requests here, and of what is wrong although requests are welcome. Ready when there is no such reason.

    An async context manager, to be entered last: not ready before and after.
    """

    __slots__ = ("_noted", "_probes", "_reasons")

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"start": "the gateway is starting"}
        self._probes: list[Probe] = []
        self._noted: list[Noted] = []

    async def __aenter__(self) -> Self:
        self._reasons.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Make the process not ready: it does not take requests any more."""
        self._reasons["stop"] = "the gateway is stopping"

    def watch(self, probe: Probe) -> None:
        """Call `probe` for each readiness check. A reason that it returns makes the process not ready."""
        self._probes.append(probe)

    def mention(self, part: Noted) -> None:
        """Show the notes of a part with each readiness check. They do not affect readiness."""
        self._noted.append(part)

    @property
    def is_ready(self) -> bool:
        return not self._blocking()

    @property
    def reasons(self) -> Sequence[str]:
        return (*self._blocking(), *(note for part in self._noted for note in part.notes()))

    def _blocking(self) -> list[str]:
        return [*self._reasons.values(), *(reason for probe in self._probes if (reason := probe()) is not None)]


def upstream_probe(name: str, reloader: Reloader) -> Probe:
    """The probe for one upstream. Raises ConfigError when the document has no such upstream, or the upstream has no breaker."""
    upstreams = reloader.service.plan.upstreams
    known = upstreams.get(name)
    if known is None:
        raise wrong_setting("READY_UPSTREAMS", f"the document has no upstream {name}", did_you_mean(name, list(upstreams)))
    if known.breaker is None:
        raise wrong_setting("READY_UPSTREAMS", f"the upstream {name} has no breaker, which readiness depends on", "add a breaker")

    def probe() -> str | None:
        stack = reloader.service.upstreams.stacks.get(name)
        # Ready again once the breaker's open time is over: only new requests can close the breaker.
        return None if stack is None or stack.would_allow(monotonic()) else f"the upstream {name} is unavailable: its breaker is open"

    return probe


def compute_probe(reloader: Reloader) -> Probe:
    """Not ready while this process cannot start processes for compute steps: another process can probably do so."""

    def probe() -> str | None:
        return reloader.service.compute.trouble()

    return probe


def routes(health: Readiness) -> list[Route]:
    async def livez(request: Request) -> Response:
        return _answer(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        is_ready = health.is_ready
        return _answer(200 if is_ready else 503, {"status": "ready" if is_ready else "not ready", "reasons": list(health.reasons)})

    return [Route("/livez", livez, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def _answer(status: int, document: dict[str, object]) -> Response:
    return Response(orjson.dumps(document), status, {"cache-control": "no-store"}, media_type="application/json")
