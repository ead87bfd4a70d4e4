"""Wires the parts together. The only module that knows them all: document -> plans -> upstreams -> engine -> edge."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from app.config.load import Draft, read
from app.config.model import Upstream
from app.config.problems import Problems
from app.config.watch import changes
from app.edge.build import Gateway, build_app
from app.edge.dataplane import DataPlane, Generation
from app.edge.fan import ClientGone, FanHeaders, FanOutFailed, FanSource, answer_failed, answer_gone
from app.edge.health import Health
from app.engine.reload import Reloader, ReloadState
from app.engine.service import Service
from app.errors import ConfigError, MissingExtraError, Problem
from app.plan.compile import compile_document
from app.plan.model import DocumentPlan
from app.settings import Settings
from app.upstream.open import open_transport
from app.upstream.tls import TLSContexts

logger = logging.getLogger("anabranch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A document that is ready to run. `warnings`: what its writer may not have expected. `routers`: the Python routes it names.
    `contexts`: how its upstreams are trusted, read with it."""

    plan: DocumentPlan
    routers: tuple[APIRouter, ...]
    warnings: list[Problem]
    draft: Draft
    contexts: TLSContexts


def compile_file(path: Path, environ: Mapping[str, str] = os.environ, *, import_from: Path | None = None) -> Compiled:
    """Read, check and compile the document in a file or folder. Raises ConfigError with every problem in it.

    `import_from`: folder that Python routes are looked for in, before what is installed; the working directory when None.
    """
    draft = read(path, environ)
    plan = compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken)
    routers = _import_routers(draft.document.routers, draft.problems, import_from or Path.cwd())
    contexts = _prove_upstreams(plan.upstreams, draft.problems)
    draft.problems.raise_if_any()
    return Compiled(plan=plan, routers=routers, warnings=draft.problems.warnings, draft=draft, contexts=contexts)


def create_app(settings: Settings) -> Gateway:
    """The gateway as an ASGI application. Raises ConfigError when the document is not usable. Nothing is opened before its lifespan begins."""
    if settings.document is None:
        raise ConfigError([_no_document()])
    document = settings.document
    compiled = compile_file(document)
    for warning in compiled.warnings:
        logger.warning("%s", warning)
    first = _service(compiled)
    health = Health()
    health.block("start", "the gateway is starting")
    plane = DataPlane(first.engine.run, allow_explain=settings.allow_explain)
    plane.load(first.plan)

    def prepare() -> Service:
        """The document as it is now, for a reload. What only a restart can change is a warning."""
        again = compile_file(document)
        _keep_routers(compiled.draft.document.routers, again.draft)
        return _service(again)

    def swap(service: Service) -> Generation:
        """Both the document's endpoints and the routes in Python see the new service from the same moment on."""
        before = plane.load(service.plan, service.engine.run)
        app.state.fan_source = _fan_source(service, plane.generation)
        return before

    reloader = Reloader(first, prepare=prepare, swap=swap, linger_s=settings.shutdown_timeout_s)

    def show(state: ReloadState) -> None:
        if state.is_failed:
            health.degrade("reload", "the document on the disk is not usable; the one before it is served")
        else:
            health.clear("reload")

    reloader.observe(show)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(reloader)
            app.state.fan_source = _fan_source(first, plane.generation)
            if settings.reload == "watch":
                await exits.enter_async_context(_watching(document, reloader))
            health.clear("start")
            yield
            health.block("stop", "the gateway is stopping")

    app = build_app(plane=plane, health_status=health, routers=compiled.routers, lifespan=lifespan, is_docs_enabled=settings.docs)
    app.state.reloader = reloader
    app.state.health = health
    if compiled.routers:
        app.add_middleware(FanHeaders)
        app.add_exception_handler(FanOutFailed, answer_failed)
        app.add_exception_handler(ClientGone, answer_gone)
    return app


def _service(compiled: Compiled) -> Service:
    """What runs for this document, not open yet."""
    tls = [upstream.tls for upstream in compiled.plan.upstreams.values() if upstream.tls is not None]
    return Service(
        compiled.plan,
        digest=compiled.draft.digest,
        warnings=tuple(compiled.draft.problems.warnings),
        files=(*map(str, compiled.draft.files), *(file for one in tls for file in (one.ca, one.cert, one.key) if file is not None)),
        opener=partial(open_transport, contexts=compiled.contexts),
    )


@asynccontextmanager
async def _watching(document: Path, reloader: Reloader) -> AsyncIterator[None]:
    """Reload the document when it changes on the disk."""

    async def watch() -> None:
        async with aclosing(changes(document, lambda: reloader.service.files, is_eager=lambda: reloader.state.is_failed)) as changed:
            async for _ in changed:
                await reloader.reload("watch")

    task = asyncio.create_task(watch(), name="watch the document")
    task.add_done_callback(_report_end)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("changes of the document are no longer noticed; SIGHUP still reloads it", exc_info=error)


def _fan_source(service: Service, generation: Generation) -> FanSource:
    return FanSource(service.surfaces, service.plan.source.defaults.timeout_s, generation)


def _keep_routers(served: list[str], draft: Draft) -> None:
    """Routes in Python stay as they were when the process started: say so when the document now names others."""
    if draft.document.routers != served:
        draft.problems.add(("routers",), "other routes in Python take effect when the gateway is restarted", is_warning=True)


def _prove_upstreams(upstreams: Mapping[str, Upstream], problems: Problems) -> TLSContexts:
    """Build each transport once, which opens no connection: a certificate that cannot be read and a missing extra are found with the rest.

    Returns the TLS contexts that were made for them.
    """
    contexts = TLSContexts()
    for name, upstream in upstreams.items():
        try:
            open_transport(upstream, contexts)
        except MissingExtraError as error:
            problems.add(("upstreams", name, "http2"), str(error))
        except ValueError as error:
            problems.add(("upstreams", name, "tls"), str(error))
    return contexts


def _import_routers(names: list[str], problems: Problems, folder: Path) -> tuple[APIRouter, ...]:
    """The routers that a document names, each as `module:attribute`."""
    if names and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    routers = []
    for index, name in enumerate(names):
        module, _, attribute = name.partition(":")
        at = ("routers", index)
        if not module or not attribute:
            problems.add(at, "a router is written as module:attribute", value=name)
            continue
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            problems.add(
                at,
                f"there is no module {error.name}",
                value=name,
                hint="it is looked for in the working directory and in what is installed",
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's module does when it is imported
            problems.add(at, f"the module {module} cannot be imported: {type(error).__name__}: {error}", value=name)
        else:
            found: Any = getattr(imported, attribute, None)
            if isinstance(found, APIRouter):
                routers.append(found)
            elif found is None:
                problems.add(at, f"the module {module} has no {attribute}", value=name)
            else:
                problems.add(at, f"{name} must be a fastapi.APIRouter, not of type {type(found).__name__}")
    return tuple(routers)


def _no_document() -> Problem:
    return Problem(
        file="settings", line=1, column=1, path="ANABRANCH_DOCUMENT", message="no gateway document is named",
        hint="run `anabranch run FILE`, or set ANABRANCH_DOCUMENT to a file or folder",
    )  # fmt: skip
