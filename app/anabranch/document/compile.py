"""Reads and compiles a document file, and checks what only this process can check: the Python that the document names (hooks, routers),
certificates and optional libraries.

Opens, starts and connects nothing.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from anabranch.compute.hooks import check_hook
from anabranch.compute.pools import make_pool
from anabranch.config.load import Draft, read
from anabranch.config.problems import Problems
from anabranch.document.routes import check_routes
from anabranch.errors import MissingExtraError, Problem
from anabranch.plan.compile import compile_document
from anabranch.plan.model import DocumentPlan, PoolPlan
from anabranch.plan.upstream import UpstreamPlan
from anabranch.sinks.open import open_sink
from anabranch.upstream.open import open_transport
from anabranch.upstream.tls import TLSContexts


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A document that is ready to run. `warnings`: settings that its author may not have intended. `routers`: the Python routers it names.
    `contexts`: TLS contexts of its upstreams, with the certificates already read."""

    plan: DocumentPlan
    routers: tuple[APIRouter, ...]
    warnings: list[Problem]
    draft: Draft
    contexts: TLSContexts


def compile_file(path: Path, environ: Mapping[str, str] = os.environ) -> Compiled:
    """Read, check and compile the document in a file or folder. Raises ConfigError with every problem in it.

    The Python that it names is imported: from the folder of the document, else from the working directory, else from the installed packages.
    """
    draft = read(path, environ)
    _search_for_modules(path)
    plan = compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken, check_hook=check_hook)
    routers = _import_routers(draft.document.routers, draft.problems)
    check_routes(routers, plan, draft.problems)
    _check_pools(plan.pools, draft.problems)
    _check_sinks(draft)
    contexts = _check_upstreams(plan.upstreams, draft.problems)
    draft.problems.raise_if_any()
    return Compiled(
        plan=plan, routers=tuple(router for _, router in routers), warnings=draft.problems.warnings, draft=draft, contexts=contexts
    )


def keep_routers(served: list[str], draft: Draft) -> None:
    """Warn when `routers` has changed: Python routes stay as they were when the process started."""
    if draft.document.routers != served:
        draft.problems.add(("routers",), "changes to routers take effect when the gateway is restarted", is_warning=True)


def _check_upstreams(upstreams: Mapping[str, UpstreamPlan], problems: Problems) -> TLSContexts:
    """Build each transport once, without opening a connection, to report unreadable certificates and missing extras with the other
    problems.

    Returns the TLS contexts of the transports.
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


def _check_pools(pools: Mapping[str, PoolPlan], problems: Problems) -> None:
    """Create each pool once, without starting it, to report missing extras with the other problems."""
    for name, plan in pools.items():
        try:
            make_pool(plan)
        except MissingExtraError as error:
            problems.add(("compute_backends", name, "kind"), str(error))


def _check_sinks(draft: Draft) -> None:
    """Create each sink once, without connecting, to report missing extras with the other problems."""
    for index, sink in enumerate(draft.document.journal.sinks):
        try:
            open_sink(sink)
        except MissingExtraError as error:
            draft.problems.add(("journal", "sinks", index, "postgres"), str(error))


def _search_for_modules(document: Path) -> None:
    """Let Python find the modules beside the document, and those in the working directory. The paths of secrets and certificates start at the
    document's folder too."""
    folder = (document if document.is_dir() else document.parent).resolve()
    for searched in dict.fromkeys((str(Path.cwd()), str(folder))):
        if searched not in sys.path:
            sys.path.insert(0, searched)


def _import_routers(names: list[str], problems: Problems) -> list[tuple[int, APIRouter]]:
    """Import the routers that a document names, each as `module:attribute`. Returns them with their index."""
    routers: list[tuple[int, APIRouter]] = []
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
                hint="modules are searched in the document's folder, the working directory and the installed packages",
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's module does when it is imported
            problems.add(at, f"the module {module} cannot be imported: {type(error).__name__}: {error}", value=name)
        else:
            found: Any = getattr(imported, attribute, None)
            if isinstance(found, APIRouter):
                routers.append((index, found))
            elif found is None:
                problems.add(at, f"the module {module} has no {attribute}", value=name)
            else:
                problems.add(at, f"{name} must be a fastapi.APIRouter, not of type {type(found).__name__}")
    return routers
