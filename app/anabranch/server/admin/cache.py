"""`/admin/cache`: lists the stored answers in this process's memory, and purges them everywhere. Routes for the admin application, never for the public port.

It shows no bodies and no queries, only paths and tags.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anabranch.cache.entries import Listed
from anabranch.cache.purge import matches
from anabranch.document.reload import Reloader
from anabranch.edge import problems
from anabranch.edge.faults import respond
from anabranch.edge.python import request_of
from anabranch.errors import InvalidParameters, RequestError
from anabranch.server.admin.reload import Others
from anabranch.server.peers import ENDED, PeerResult
from anabranch.store.seam import StoreAway

_MOST_LISTED: Final = 10_000
_LISTED: Final = 100
_MOST_NAMES: Final = 100
_LONGEST_NAME: Final = 2048
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}


class Which(msgspec.Struct, frozen=True):
    """Which entries are meant: those with one of the tags and those of one of the paths; without both, all. A path that ends in `*` is the beginning of paths."""

    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        return not self.tags and not self.paths

    def is_meant(self, entry: Listed) -> bool:
        return self.is_everything or any(tag in entry.tags for tag in self.tags) or any(matches(path, entry.path) for path in self.paths)


def routes(reloader: Reloader, others: Others | None = None) -> list[BaseRoute]:
    """`GET /admin/cache` lists entries, those used last first (query: `tag` and `path`, both repeatable, `upstream`, and `limit`, 100 by default). `DELETE /admin/cache` removes
    those with a `tag` or of a `path`, and all of them without both. Entries that are removed are gone in every worker, and in every gateway that shares the store.

    `others`: have memories of their own; then `workers` has an entry for each worker, and a purge that one of them did not report answers 504. 503: the shared store is away, so
    other gateways and later starts may still use the entries.
    """

    async def show(request: Request) -> Response:
        try:
            which = _which(request, {"upstream", "limit"})
            limit = _limit(request)
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        entries = reloader.service.entries
        # A thread: there may be a hundred thousand entries.
        found = [] if entries is None else await asyncio.to_thread(_found, entries.ls(), which, request.query_params.get("upstream"))
        return _answer(
            200,
            {
                "worker": None if others is None else others.number,
                "count": len(found),
                "size_bytes": sum(entry.size_bytes for entry in found),
                "entries": found[:limit],
            },
        )

    async def purge(request: Request) -> Response:
        try:
            which = _which(request, set())
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        entries = reloader.service.entries
        removed, is_shared, is_away = 0, False, False
        if entries is not None:
            is_shared = entries.shared is not None
            removed = entries.purge_here(tags=which.tags, paths=which.paths, everything=which.is_everything)
            try:
                await entries.tell_others(tags=which.tags, paths=which.paths, everything=which.is_everything)
            except StoreAway:
                is_away = True
        report: dict[str, Any] = {"purged": removed, "shared": None if not is_shared else "away" if is_away else "told"}
        is_late = False
        if others is not None:
            theirs = await others.ask("purge", msgspec.to_builtins(which))
            outcomes = {others.number: {"result": "ok", "purged": removed}, **(theirs or {})}
            is_late = theirs is None or any(outcome["result"] not in ("ok", ENDED) for outcome in outcomes.values())
            report["purged"] = sum(outcome.get("purged", 0) for outcome in outcomes.values())
            report["workers"] = [{"worker": number, **outcomes[number]} for number in sorted(outcomes)]
        return _answer(504 if is_late else 503 if is_away else 200, {**report, "complete": not is_late and not is_away})

    return [Route("/admin/cache", show, methods=["GET"]), Route("/admin/cache", purge, methods=["DELETE"])]


def _found(listed: Iterator[Listed], which: Which, upstream: str | None) -> list[Listed]:
    return [entry for entry in listed if which.is_meant(entry) and upstream in (None, entry.upstream)]


def purger(reloader: Reloader) -> Callable[[Any], Awaitable[PeerResult]]:
    """What removes the entries of this worker when another one says so."""

    async def purge(argument: Any) -> PeerResult:
        which = msgspec.convert(argument, Which)
        entries = reloader.service.entries
        removed = 0 if entries is None else entries.purge_here(tags=which.tags, paths=which.paths, everything=which.is_everything)
        return {"result": "ok", "purged": removed}

    return purge


def _which(request: Request, other: set[str]) -> Which:
    """The entries that a query names. Raises InvalidParameters: a name that is not known must not turn a purge of some into one of all."""
    query = request.query_params
    for name in query:
        if name not in {"tag", "path", *other}:
            known = ", ".join(f"`{one}`" for one in ("tag", "path", *sorted(other)))
            raise InvalidParameters(f"there is no query parameter `{name[:50]}`: the parameters are {known}")
    tags, paths = query.getlist("tag"), query.getlist("path")
    for name, values in (("tag", tags), ("path", paths)):
        if len(values) > _MOST_NAMES or any(not 0 < len(value) <= _LONGEST_NAME for value in values):
            raise InvalidParameters(
                f"the query parameter `{name}`: it must have 1 to {_LONGEST_NAME} characters, at most {_MOST_NAMES} times"
            )
    for path in paths:
        if not path.startswith("/") or "?" in path:
            raise InvalidParameters("the query parameter `path`: it is the path of a call, without its query, and begins with /")
    return Which(tuple(tags), tuple(paths))


def _limit(request: Request) -> int:
    limit = request.query_params.get("limit", str(_LISTED))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _MOST_LISTED):
        raise InvalidParameters(f"the query parameter `limit`: it must be a number from 1 to {_MOST_LISTED}")
    return int(limit)


def _answer(status: int, report: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(report), status, headers=_JSON)
