"""A gateway in the process of the test: its services are a respx router or scripted services, and its client needs no socket."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from anabranch.edge.app import Gateway
from anabranch.testing.application import Log, environment, gateway_process
from anabranch.testing.clients import AsyncClient, Client
from anabranch.testing.lifespan import lifespan
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.testing.services import Call, RoutedServices, ScriptedServices

if TYPE_CHECKING:
    import respx

C = TypeVar("C", bound=httpx.Client | httpx.AsyncClient)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway(Generic[C]):
    """A running gateway.

    `client`: a client of the gateway. `calls`: the calls to its services, in the order in which they began. `log`: the lines of its log, as
    dictionaries. `upstreams`: the scripted services by name; empty with a router. `app`: the ASGI application. `folder`: contains the journal
    unless the setting `journal_path` moves it; removed at the end.
    """

    client: C
    calls: list[Call]
    log: list[dict[str, Any]]
    upstreams: Mapping[str, ScriptedUpstream]
    app: Gateway
    folder: Path


class GatewayInProcess:
    """A context manager: `with` yields a gateway with an `httpx.Client`, `async with` one with an `httpx.AsyncClient`. Made by `gateway`."""

    def __init__(
        self,
        document: str | PathLike[str] | Mapping[str, Any],
        services: "respx.Router | Mapping[str, Any]",
        *,
        env: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        self._document = document
        self._services = _services(services)
        self._env = env
        self._settings = settings
        self._exits = ExitStack()
        self._async_exits = AsyncExitStack()

    def __enter__(self) -> RunningGateway[httpx.Client]:
        with ExitStack() as exits:
            portal = exits.enter_context(start_blocking_portal())
            opened: AbstractContextManager[_Opened] = portal.wrap_async_context_manager(self._open())
            running = exits.enter_context(opened).running(portal)
            exits.enter_context(running.client)
            self._exits = exits.pop_all()
        return running

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.__exit__(kind, error, trace)

    async def __aenter__(self) -> RunningGateway[httpx.AsyncClient]:
        async with AsyncExitStack() as exits:
            running = (await exits.enter_async_context(self._open())).running_async()
            await exits.enter_async_context(running.client)
            self._async_exits = exits.pop_all()
        return running

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._async_exits.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator["_Opened"]:
        services = self._services
        async with AsyncExitStack() as exits:
            folder = Path(exits.enter_context(TemporaryDirectory(prefix="anabranch-", ignore_cleanup_errors=True)))
            log = exits.enter_context(Log())
            exits.enter_context(environment(self._env))
            await exits.enter_async_context(services)
            settings = {"journal_path": folder / "journal", **self._settings}
            app = gateway_process(self._written(folder), settings, log, services.open).app
            await exits.enter_async_context(lifespan(app))
            if isinstance(services, ScriptedServices):
                services.check_names()
            yield _Opened(app, services, log, folder)
        services.traffic.check()

    def _written(self, folder: Path) -> Path:
        """The document as a file or folder."""
        if not isinstance(self._document, Mapping):
            return Path(self._document)
        path = folder / "gateway.yaml"
        path.write_text(json.dumps({"version": 1, **self._document}, indent=1), "utf-8")  # JSON is YAML
        return path


@dataclass(frozen=True, slots=True)
class _Opened:
    app: Gateway
    services: RoutedServices | ScriptedServices
    log: Log
    folder: Path

    def running(self, portal: BlockingPortal) -> RunningGateway[httpx.Client]:
        return self._with(Client(self.app, self.services.traffic.check, portal))

    def running_async(self) -> RunningGateway[httpx.AsyncClient]:
        return self._with(AsyncClient(self.app, self.services.traffic.check))

    def _with(self, client: C) -> RunningGateway[C]:
        upstreams = self.services.upstreams if isinstance(self.services, ScriptedServices) else {}
        return RunningGateway(
            client=client,
            calls=self.services.traffic.calls,
            log=self.log.events,
            upstreams=upstreams,
            app=self.app,
            folder=self.folder,
        )


def gateway(
    document: str | PathLike[str] | Mapping[str, Any],
    services: "respx.Router | Mapping[str, Any]",
    *,
    env: Mapping[str, str] | None = None,
    **settings: Any,
) -> GatewayInProcess:
    """A gateway for `document` (a file, a folder, or the document as a mapping) with `services` in place of its services.

    `services`: a respx router, which sees every call of the document, whatever the upstream's transport; or scripts by the name of the upstream:
    `{"flights": {"/flights/1": {"json": {"id": 1}}}}`. A call for which there is no answer raises UnexpectedCall in the request that caused it,
    or at the end. `env`: environment variables for the document. `settings`: settings of the process, such as `allow_explain=True`; those in the
    environment and in `.env` are ignored.

    Timeouts, retries, breakers and redirects work as in production. No name is resolved, no port is opened, and no record is shipped. The journal
    is in a temporary folder.

    Raises ConfigError when the document is not usable, ValueError for an unknown setting or an invalid script.
    """
    return GatewayInProcess(document, services, env=env or {}, settings=settings)


def _services(services: Any) -> RoutedServices | ScriptedServices:
    if isinstance(services, Mapping):
        return ScriptedServices(services)
    if hasattr(services, "async_handler") and hasattr(services, "routes"):
        return RoutedServices(services)
    raise TypeError(f"services are a respx router, or a mapping from upstreams to scripts, not {type(services).__name__}")
