"""Wires the parts together. The only module that knows them all: document -> plans -> upstreams -> engine -> edge."""

import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from app.config.load import Draft, read
from app.config.model import Upstream
from app.config.problems import Problems
from app.edge.build import Gateway, build_app
from app.edge.dataplane import DataPlane
from app.edge.fan import ClientGone, FanHeaders, FanOutFailed, FanSource, answer_failed, answer_gone
from app.edge.health import Health
from app.engine.fanout import surfaces
from app.engine.run import Engine
from app.engine.upstreams import Upstreams
from app.errors import ConfigError, MissingExtraError, Problem
from app.plan.compile import compile_document
from app.plan.model import DocumentPlan
from app.settings import Settings
from app.upstream.open import open_transport
from app.upstream.tls import TLSContexts

logger = logging.getLogger("anabranch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A document that is ready to run. `warnings`: what its writer may not have expected. `routers`: the Python routes it names."""

    plan: DocumentPlan
    routers: tuple[APIRouter, ...]
    warnings: list[Problem]
    draft: Draft


def compile_file(path: Path, environ: Mapping[str, str] = os.environ, *, import_from: Path | None = None) -> Compiled:
    """Read, check and compile the document in a file or folder. Raises ConfigError with every problem in it.

    `import_from`: folder that Python routes are looked for in, before what is installed; the working directory when None.
    """
    draft = read(path, environ)
    plan = compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken)
    routers = _import_routers(draft.document.routers, draft.problems, import_from or Path.cwd())
    _prove_upstreams(plan.upstreams, draft.problems)
    draft.problems.raise_if_any()
    return Compiled(plan=plan, routers=routers, warnings=draft.problems.warnings, draft=draft)


def create_app(settings: Settings) -> Gateway:
    """The gateway as an ASGI application. Raises ConfigError when the document is not usable. Nothing is opened before its lifespan begins."""
    if settings.document is None:
        raise ConfigError([_no_document()])
    compiled = compile_file(settings.document)
    for warning in compiled.warnings:
        logger.warning("%s", warning)
    upstreams = Upstreams(compiled.plan.upstreams)
    health = Health()
    health.block("start", "the gateway is starting")
    plane = DataPlane(Engine(upstreams.policies).run, allow_explain=settings.allow_explain)
    plane.load(compiled.plan)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(upstreams)
            app.state.fan_source = FanSource(surfaces(compiled.plan.upstreams, upstreams.policies), compiled.plan.source.defaults.timeout_s)
            health.clear("start")
            yield
            health.block("stop", "the gateway is stopping")

    app = build_app(plane=plane, health_status=health, routers=compiled.routers, lifespan=lifespan, is_docs_enabled=settings.docs)
    if compiled.routers:
        app.add_middleware(FanHeaders)
        app.add_exception_handler(FanOutFailed, answer_failed)
        app.add_exception_handler(ClientGone, answer_gone)
    return app


def _prove_upstreams(upstreams: Mapping[str, Upstream], problems: Problems) -> None:
    """Build each transport once, which opens no connection: a certificate that cannot be read and a missing extra are found with the rest."""
    contexts = TLSContexts()
    for name, upstream in upstreams.items():
        try:
            open_transport(upstream, contexts)
        except MissingExtraError as error:
            problems.add(("upstreams", name, "http2"), str(error))
        except ValueError as error:
            problems.add(("upstreams", name, "tls"), str(error))


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
