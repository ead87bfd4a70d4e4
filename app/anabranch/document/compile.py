"""From a file to a document that is proven to run: read, compiled, and tried against what only the process has.

That is the Python it names (hooks, routers), certificates and optional libraries. Nothing is opened, started or connected here.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from anabranch.compute.hooks import check_hook
from anabranch.compute.pools import make_pool
from anabranch.config.load import Draft, read
from anabranch.config.problems import Problems
from anabranch.errors import MissingExtraError, Problem
from anabranch.plan.compile import compile_document
from anabranch.plan.known import HookCheck
from anabranch.plan.model import DocumentPlan, PoolKind, PoolPlan
from anabranch.plan.upstream import UpstreamPlan
from anabranch.sinks.open import open_sink
from anabranch.upstream.open import open_transport
from anabranch.upstream.tls import TLSContexts


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

    `import_from`: folder that Python routes and hooks are looked for in, before what is installed; the working directory when None.
    """
    draft = read(path, environ)
    folder = import_from or Path.cwd()
    plan = compile_document(
        draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken, check_hook=partial(_check_hook, folder)
    )
    routers = _import_routers(draft.document.routers, draft.problems, folder)
    _prove_pools(plan.pools, draft.problems)
    _prove_sinks(draft)
    contexts = _prove_upstreams(plan.upstreams, draft.problems)
    draft.problems.raise_if_any()
    return Compiled(plan=plan, routers=routers, warnings=draft.problems.warnings, draft=draft, contexts=contexts)


def keep_routers(served: list[str], draft: Draft) -> None:
    """Routes in Python stay as they were when the process started: say so when the document now names others."""
    if draft.document.routers != served:
        draft.problems.add(("routers",), "other routes in Python take effect when the gateway is restarted", is_warning=True)


def _prove_upstreams(upstreams: Mapping[str, UpstreamPlan], problems: Problems) -> TLSContexts:
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


def _prove_pools(pools: Mapping[str, PoolPlan], problems: Problems) -> None:
    """Make each pool once, which starts nothing: a missing extra is found with the rest."""
    for name, plan in pools.items():
        try:
            make_pool(plan)
        except MissingExtraError as error:
            problems.add(("compute_backends", name, "kind"), str(error))


def _prove_sinks(draft: Draft) -> None:
    """Make each sink once, which connects to nothing: a missing extra is found with the rest."""
    for index, sink in enumerate(draft.document.journal.sinks):
        try:
            open_sink(sink)
        except MissingExtraError as error:
            draft.problems.add(("journal", "sinks", index, "postgres"), str(error))


def _check_hook(folder: Path, hook: str, arguments: tuple[str, ...], kind: PoolKind) -> HookCheck:
    """Look at a hook; it may be in a module of `folder`."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return check_hook(hook, arguments, kind)


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
