"""The journal over HTTP, for the admin server: recent records, a single record, and the progress of each sink. Reads files in a thread;
changes nothing.

Records contain the requests and answers of clients, so these routes must be protected by a token wherever they are mounted.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from anabranch.document.reload import Reloader
from anabranch.edge import problems
from anabranch.edge.faults import respond
from anabranch.edge.python import request_of
from anabranch.errors import InvalidParameters, NotFound, RequestError
from anabranch.journal.filter import Filter, FilterError, read_filter
from anabranch.journal.reader import find, last
from anabranch.journal.record import Head
from anabranch.journal.segment import Segment, listed
from anabranch.sinks.open import Shippers
from anabranch.sinks.shipper import Shipper

_MAX_RECORDS: Final = 1000
_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}


class SinkView(msgspec.Struct, frozen=True):
    """`name`: as in metrics. `trouble`: why nothing can be shipped now. `records`, `fresh`, `failures`: since this document took effect.
    `waiting_segments`, `waiting_bytes`: segments with unshipped records, and their unshipped bytes on disk; a compressed one counts
    whole."""

    name: str
    trouble: str | None
    records: int
    fresh: int
    failures: int
    waiting_segments: int
    waiting_bytes: int


def routes(reloader: Reloader) -> list[BaseRoute]:
    """`/admin/journal` (query: `limit` and those of `journal.filter.ASKED`; the latest first), `/admin/journal/sinks` and
    `/admin/journal/ID` (of the record, or the X-Request-Id of its request).

    `folder_of`: returns the current journal's folder; None when there is none. `shippers_of`: returns its shippers; None when there are
    none.
    """

    async def recent(request: Request) -> Response:
        try:
            count, where = _parse_query(request)
            found = await asyncio.to_thread(_recent, _folder(reloader), count, where)
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(msgspec.json.encode({"records": found}), headers=_JSON)

    async def one(request: Request) -> Response:
        try:
            content = await asyncio.to_thread(_one, _folder(reloader), request.path_params["record_id"])
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(content, headers=_JSON)

    async def sinks(request: Request) -> Response:
        try:
            found = await asyncio.to_thread(_sinks, _folder(reloader), reloader.service.shippers)
        except RequestError as error:
            return respond(problems.of_request(error, request_of(request).id))
        return Response(msgspec.json.encode({"sinks": found}), headers=_JSON)

    return [
        Route("/admin/journal", recent, methods=["GET"]),
        Route("/admin/journal/sinks", sinks, methods=["GET"]),
        Route("/admin/journal/{record_id}", one, methods=["GET"]),
    ]


def _folder(reloader: Reloader) -> Path:
    journal = reloader.service.journal
    if journal is None:
        raise NotFound("no endpoint keeps records")
    return journal.folder


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
        raise NotFound("the journal has no record with this id")
    return msgspec.json.encode(record)


def _parse_query(request: Request) -> tuple[int, Filter]:
    query = request.query_params
    asked = {name: query.getlist(name) for name in query if name != "limit"}
    try:
        where = read_filter(asked, now=datetime.now(UTC))
    except FilterError as error:
        raise InvalidParameters(f"the query parameter `{error.name}`: {error}") from None
    limit = query.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _MAX_RECORDS):
        raise InvalidParameters(f"the query parameter `limit`: it must be a number from 1 to {_MAX_RECORDS}")
    return int(limit), where
