"""A look at the journal over HTTP, for the admin server: recent records, one of them, and how far each sink is. Reads files in a thread;
changes nothing.

Records hold what clients asked and were answered, so whoever puts these routes anywhere has to ask for a token.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anabranch.config.units import parse_duration
from anabranch.edge import problems
from anabranch.edge.faults import respond
from anabranch.edge.python import request_of
from anabranch.errors import InvalidParameters, NotFound, RequestError
from anabranch.journal.reader import Filter, find, last
from anabranch.journal.record import Head
from anabranch.journal.segment import Segment, listed
from anabranch.sinks.open import Shippers
from anabranch.sinks.shipper import Shipper

_MOST: Final = 1000
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}


class SinkView(msgspec.Struct, frozen=True):
    """`name`: as in metrics. `trouble`: why nothing can be shipped now. `records`, `fresh`, `failures`: since this document is in force.
    `waiting_segments`, `waiting_bytes`: of which some is not shipped, as they lie on the disk; a compressed one counts whole."""

    name: str
    trouble: str | None
    records: int
    fresh: int
    failures: int
    waiting_segments: int
    waiting_bytes: int


def routes(folder_of: Callable[[], Path | None], shippers_of: Callable[[], Shippers | None]) -> list[BaseRoute]:
    """`/admin/journal` (query: `limit`, `endpoint`, `since`, `status`, `incomplete`, `slow`; the latest first), `/admin/journal/sinks` and
    `/admin/journal/ID`.

    `folder_of`: the folder of the journal in force; None when there is none. `shippers_of`: what ships it; None when nothing does.
    """

    async def recent(request: Request) -> Response:
        try:
            count, where = _asked(request)
            found = await asyncio.to_thread(_recent, _folder(folder_of), count, where)
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(msgspec.json.encode({"records": found}), headers=_JSON)

    async def one(request: Request) -> Response:
        try:
            content = await asyncio.to_thread(_one, _folder(folder_of), request.path_params["record_id"])
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(content, headers=_JSON)

    async def sinks(request: Request) -> Response:
        try:
            found = await asyncio.to_thread(_sinks, _folder(folder_of), shippers_of())
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(msgspec.json.encode({"sinks": found}), headers=_JSON)

    return [
        Route("/admin/journal", recent, methods=["GET"]),
        Route("/admin/journal/sinks", sinks, methods=["GET"]),
        Route("/admin/journal/{record_id}", one, methods=["GET"]),
    ]


def _folder(folder_of: Callable[[], Path | None]) -> Path:
    folder = folder_of()
    if folder is None:
        raise NotFound("no endpoint keeps records")
    return folder


def _recent(folder: Path, count: int, where: Filter) -> list[Head]:
    try:
        return [head for head, _ in reversed(last(folder, count, where))]
    except FileNotFoundError:
        return []  # nothing has been recorded yet


def _sinks(folder: Path, shippers: Shippers | None) -> list[SinkView]:
    try:
        segments = listed(folder)
    except FileNotFoundError:
        segments = []
    return [] if shippers is None else [_sink(shipper, segments) for shipper in shippers.each]


def _sink(shipper: Shipper, segments: list[Segment]) -> SinkView:
    waiting = shipper.waiting(segments)
    counters = shipper.counters
    return SinkView(shipper.name, counters.trouble, counters.records, counters.fresh, counters.failures, len(waiting), sum(waiting))


def _one(folder: Path, record_id: str) -> bytes:
    try:
        record = find(folder, record_id)
    except FileNotFoundError:
        record = None
    if record is None:
        raise NotFound("the journal has no record of this id")
    return msgspec.json.encode(record)


def _asked(request: Request) -> tuple[int, Filter]:
    query = request.query_params
    try:
        count = int(query.get("limit", "50"))
        since, slow = query.get("since"), query.get("slow")
        where = Filter(
            endpoints=frozenset(query.getlist("endpoint")),
            since=None if since is None else datetime.now(UTC) - timedelta(seconds=parse_duration(since)),
            statuses=frozenset(int(text.lower().removesuffix("xx")) for text in query.getlist("status")),
            is_incomplete=query.get("incomplete") == "true",
            slower_than_ms=None if slow is None else parse_duration(slow) * 1000,
        )
    except (ValueError, OverflowError):
        raise InvalidParameters(
            "limit is a number, status a number such as 404 or a class such as 5xx, since and slow are durations such as 1h and 500ms"
        ) from None
    if not 1 <= count <= _MOST:
        raise InvalidParameters(f"limit is between 1 and {_MOST}")
    return count, where
