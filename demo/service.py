"""Shared by the five services: a small ASGI application over a table of routes, and the command that serves it with uvicorn.

Handlers are plain functions from a request to a JSON value, or to an `HtmlPage`; a `Refusal` becomes an error response in JSON.
"""

import argparse
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson
import uvicorn

from demo.table import JSON, Parse, Row, Table

PORTS: Final[Mapping[str, int]] = {"flights": 9101, "airlines": 9102, "airports": 9103, "planes": 9104, "weather": 9105}
"""Default port of each service; the environment variable NAME_PORT overrides it."""

MAX_BODY_BYTES: Final = 64 * 1024
MAX_LIMIT: Final = 1000

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refusal(Exception):
    """A request that the service cannot serve. `status`: 4xx. `detail`: a sentence for the caller."""

    def __init__(self, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or []


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A handler's argument. `path`: values of the path parameters. `arguments`: the query, or the JSON object in the body of a POST."""

    path: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, JSON] = field(default_factory=dict)

    def take(self, name: str, parse: Parse, default: JSON = None) -> JSON:
        """One of the `arguments`, read by `parse`; `default` if absent, empty or null. Refuses with 400 a value that cannot be read."""
        value = self.arguments.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, dict | list):
            raise Refusal(400, f"{name} cannot be an object or an array")
        try:
            return parse(str(value).lower() if isinstance(value, bool) else str(value))
        except (ValueError, OverflowError):
            raise Refusal(400, f"{name} cannot be {value!r}") from None


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A handler's answer for people: `text` is sent as HTML, in UTF-8."""

    text: str


Handler = Callable[[Request], JSON | HtmlPage]


def matching(table: Table, request: Request, *, extra: tuple[str, ...] = ()) -> list[Row]:
    """The rows that match the filters in the request.

    Refuses names that are neither a filter nor in `extra`: a mistyped filter must not match everything.
    """
    unknown = sorted(request.arguments.keys() - table.filters.keys() - set(extra))
    if unknown:
        raise Refusal(400, f"unknown: {', '.join(unknown)}; known: {', '.join([*table.filters, *extra]) or 'nothing'}")
    wanted = {name: request.take(name, parse) for name, parse in table.filters.items()}
    return table.find({name: value for name, value in wanted.items() if value is not None})


def page(table: Table, request: Request, *, key: str) -> JSON:
    """`{key: rows, "total": n}`: the first `limit` (default 20; 0 to 1000) of the `total` matching rows."""
    limit: int = request.take("limit", int, 20)
    if not 0 <= limit <= MAX_LIMIT:
        raise Refusal(400, f"limit must be between 0 and {MAX_LIMIT}")
    rows = matching(table, request, extra=("limit",))
    return {key: rows[:limit], "total": len(rows)}


def listed(rows: Mapping[str, Row], request: Request, *, by: str, key: str) -> JSON:
    """`{key: rows, "total": n}`: the rows whose keys the argument `by` lists, separated by commas, in that order. Unknown keys are left out.

    Refuses other arguments and more than 1000 keys.
    """
    if others := sorted(request.arguments.keys() - {by}):
        raise Refusal(400, f"{by} cannot be combined with {', '.join(others)}")
    wanted = dict.fromkeys(str(request.arguments[by]).split(","))
    if len(wanted) > MAX_LIMIT:
        raise Refusal(400, f"{by} can list at most {MAX_LIMIT}")
    chosen = [rows[one] for one in wanted if one in rows]
    return {key: chosen, "total": len(chosen)}


def found(row: Row | None, what: str) -> Row:
    """The row, or a refusal with 404 that names what is missing."""
    if row is None:
        raise Refusal(404, f"there is no {what}")
    return row


class Service:
    """An ASGI application. `routes`: handlers by method and path, such as `GET /flights/{id}`; literal segments take precedence over
    parameters.

    Adds `/health`, which answers 200 once the service is up, with its number of `rows`.
    """

    def __init__(self, name: str, *, rows: int, routes: Mapping[str, Handler]) -> None:
        self.name: Final = name
        health = {"status": "ok", "service": name, "rows": rows}
        by_literals = sorted([*routes.items(), ("GET /health", lambda _: health)], key=lambda route: route[0].count("{"))
        self._routes: Final = [
            (method, path.split("/"), handler) for (method, path), handler in ((key.split(" "), handler) for key, handler in by_literals)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: list[tuple[bytes, bytes]] = []
        try:
            handler, parameters = self._route(scope)
            status, value = 200, handler(Request(path=parameters, arguments=await self._arguments(scope, receive)))
        except Refusal as refusal:
            status, value, headers = refusal.status, {"status": refusal.status, "detail": refusal.detail}, refusal.headers
        is_page = isinstance(value, HtmlPage)
        body = value.text.encode() if is_page else orjson.dumps(value)
        media_type = b"text/html; charset=utf-8" if is_page else b"application/json"
        headers = [*headers, (b"content-type", media_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _route(self, scope: Scope) -> tuple[Handler, dict[str, str]]:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        allowed = []
        for offered, parameters, handler in self._matching(scope["raw_path"].decode("ascii")):
            if offered == method:
                return handler, parameters
            allowed.append(offered)
        if not allowed:
            raise Refusal(404, f"{self.name} has no such path")
        raise Refusal(405, f"this path allows {', '.join(allowed)}", [(b"allow", ", ".join(allowed).encode())])

    def _matching(self, raw_path: str) -> Iterator[tuple[str, dict[str, str], Handler]]:
        segments = raw_path.split("/")
        for method, pattern, handler in self._routes:
            if len(pattern) == len(segments) and all(
                (want.startswith("{") and got) or want == got for want, got in zip(pattern, segments, strict=True)
            ):
                pairs = zip(pattern, segments, strict=True)
                yield method, {want[1:-1]: unquote(got) for want, got in pairs if want.startswith("{")}, handler

    async def _arguments(self, scope: Scope, receive: Receive) -> dict[str, JSON]:
        if scope["method"] != "POST":
            return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise Refusal(413, f"the body must have at most {MAX_BODY_BYTES} bytes")
        try:
            arguments = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Refusal(400, "the body is not JSON") from None
        if not isinstance(arguments, dict):
            raise Refusal(400, "the body must be a JSON object")
        return arguments


def serve(service: Service) -> None:
    """The command of a service: `python -m demo.NAME [--host HOST] [--port PORT]`. Returns on SIGTERM or SIGINT."""
    port = int(os.environ.get(f"{service.name.upper()}_PORT", PORTS[service.name]))
    parser = argparse.ArgumentParser(prog=f"python -m demo.{service.name}", description=f"The demo's {service.name} service.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=port, help="port to listen on (%(default)s)")
    options = parser.parse_args()
    uvicorn.run(
        service,
        host=options.host,
        port=options.port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,  # longer than the gateway keeps idle connections, so that it never uses one that is being closed
        timeout_graceful_shutdown=3,
    )
