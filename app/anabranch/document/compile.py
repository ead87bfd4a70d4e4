"""Reads and compiles a document file, and checks what only this process can check: the Python that the document names (hooks, routers),
certificates and optional libraries.

Opens, starts and connects nothing.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.compute.hooks import check_hook
from anabranch.compute.pools import make_pool
from anabranch.config.load import Draft, read
from anabranch.config.problems import Problems
from anabranch.core.environment import environment
from anabranch.document.auth import check_auth
from anabranch.document.store import open_store
from anabranch.errors import MissingExtraError, Problem
from anabranch.plan.compile import compile_document
from anabranch.plan.known import HookCheck
from anabranch.plan.model import DocumentPlan, PoolKind, PoolPlan
from anabranch.plan.store import StorePlan
from anabranch.plan.upstream import UpstreamPlan
from anabranch.sinks.open import open_sink
from anabranch.upstream.open import open_transport
from anabranch.upstream.tls import TLSContexts

if TYPE_CHECKING:
    from fastapi import APIRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A document that is ready to run. `warnings`: settings that its author may not have intended. `routers`: the Python routers it names.
    `contexts`: TLS contexts of its upstreams, with the certificates already read."""

    plan: DocumentPlan
    routers: "tuple[APIRouter, ...]"
    warnings: list[Problem]
    draft: Draft
    contexts: TLSContexts


def compile_file(path: Path, environ: Mapping[str, str] | None = None, *, without_secrets: bool = False) -> Compiled:
    """Read, check and compile the document in a file or folder. Raises ConfigError with every problem in it.

    Python routes and hooks are searched in the document's folder, then in the working directory, then among the installed packages. `environ`: None:
    the environment and `.env`. `without_secrets`: what does not exist here is a warning: variables, secret files, certificates. The result is
    good for nothing but its problems then.
    """
    draft = read(path, environment() if environ is None else environ, without_secrets=without_secrets)
    folders = project_folders(path)
    plan = compile_document(
        draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken, check_hook=partial(_check_hook, folders)
    )
    routers = _routers(draft, plan, folders) if draft.document.routers else ()
    _check_pools(plan.pools, draft.problems)
    _check_sinks(draft)
    contexts = _check_upstreams(plan.upstreams, draft.problems, without_secrets=without_secrets)
    check_auth(plan.auth, contexts, draft.problems, without_secrets=without_secrets)
    _check_store(plan.store, contexts, draft.problems, without_secrets=without_secrets)
    draft.problems.raise_if_any()
    return Compiled(plan=plan, routers=routers, warnings=draft.problems.warnings, draft=draft, contexts=contexts)


def keep_routers(served: list[str], draft: Draft) -> None:
    """Warn when `routers` has changed: Python routes stay as they were when the process started."""
    if draft.document.routers != served:
        draft.problems.add(("routers",), "changes to routers take effect when the gateway is restarted", is_warning=True)


def project_folders(document: Path) -> tuple[Path, ...]:
    """Where the Python modules of a project are: the document's folder, as for all files that the document names, and the working directory."""
    own = (document if document.is_dir() else document.parent).absolute()
    return (own,) if own == Path.cwd() else (own, Path.cwd())


def _check_upstreams(upstreams: Mapping[str, UpstreamPlan], problems: Problems, *, without_secrets: bool) -> TLSContexts:
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
            problems.add(("upstreams", name, "tls"), str(error), is_warning=without_secrets)
    return contexts


def _check_store(store: StorePlan | None, contexts: TLSContexts, problems: Problems, *, without_secrets: bool) -> None:
    """Create the store once, without connecting, to report unreadable certificates and a missing extra with the other problems."""
    if store is None:
        return
    try:
        open_store(store, contexts)
    except MissingExtraError as error:
        problems.add(("store", "redis"), str(error))
    except ValueError as error:
        problems.add(("store", "redis", "tls"), str(error), is_warning=without_secrets)


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


def _search(folders: tuple[Path, ...]) -> None:
    """Search these folders for modules, in this order, before the installed packages."""
    wanted = [str(folder) for folder in folders]
    if sys.path[: len(wanted)] != wanted:
        sys.path[:] = [*wanted, *(folder for folder in sys.path if folder not in wanted)]


def _check_hook(folders: tuple[Path, ...], hook: str, arguments: tuple[str, ...], kind: PoolKind) -> HookCheck:
    """Check a hook, which may be in a module of one of the folders."""
    _search(folders)
    return check_hook(hook, arguments, kind)


def _routers(draft: Draft, plan: DocumentPlan, folders: tuple[Path, ...]) -> "tuple[APIRouter, ...]":
    """The routers that the document names, imported and checked."""
    from anabranch.document.routes import check_routes, import_routers  # noqa: PLC0415 - FastAPI takes half a second, and few documents need it

    _search(folders)
    routers = import_routers(draft.document.routers, draft.problems)
    check_routes(routers, plan, draft.problems)
    return tuple(router for _, router in routers)
