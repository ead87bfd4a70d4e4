"""The admin application: metrics, execution times, explain and the routes of other parts, protected by a token or from web pages."""

import hmac
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import orjson
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.document.reload import Reloader
from anabranch.edge import problems
from anabranch.edge.dataplane import DataPlane
from anabranch.edge.faults import install, respond
from anabranch.edge.python import request_of
from anabranch.edge.scope import raw_path
from anabranch.errors import NotFound
from anabranch.server import health
from anabranch.server.admin import cache, journal, reload
from anabranch.server.admin.browser import BrowserGuard
from anabranch.server.admin.reload import Others

_OPEN: Final = frozenset({"/livez", "/readyz"})
"""Paths for probes, which have no token."""
_EXPLAIN: Final = "/admin/explain"

Render = Callable[[str], tuple[bytes, str]]
"""Renders the metrics for an Accept header: body and media type. Runs in the event loop."""


def metrics_route(render: Render) -> Route:
    """/metrics."""

    async def metrics(request: Request) -> Response:
        body, media_type = render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type, "cache-control": "no-store"})

    return Route("/metrics", metrics, methods=["GET"])


def json_route(path: str, report: Callable[[], Any]) -> Route:
    """A route that shows what `report` returns."""

    async def show(request: Request) -> Response:
        return Response(orjson.dumps(report(), option=orjson.OPT_INDENT_2, default=str), headers=_JSON)

    return Route(path, show, methods=["GET"])


class ExplainRoute(BaseRoute):
    """`/admin/explain/PATH`: runs a request to PATH and answers with its plan, outcomes and timings."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_ours = scope["type"] == "http" and scope["path"].startswith(f"{_EXPLAIN}/")
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {**scope, "path": scope["path"].removeprefix(_EXPLAIN)}
        if scope.get("raw_path") is not None:
            inner["raw_path"] = scope["raw_path"].removeprefix(_EXPLAIN.encode())
        found = self._plane.find(raw_path(inner))
        if found is None:
            raise NotFound("no endpoint has this path")
        await self._plane.serve(found, inner, receive, send, is_explained=True)


class _Rendered(Protocol):
    def render(self, accept: str) -> tuple[bytes, str]: ...


class _Reported(Protocol):
    def report(self) -> Any: ...


def routes_of(
    reloader: Reloader, others: Others | None, metrics: _Rendered | None, timings: _Reported | None, *, is_private: bool
) -> list[BaseRoute]:
    """The routes of the admin server. `is_private`: callers need a token; only then records of the journal are shown. To add a page, add its routes
    here."""
    routes: list[BaseRoute] = [*reload.routes(reloader, others), *cache.routes(reloader, others)]
    if metrics is not None:
        routes.append(metrics_route(metrics.render))
    if timings is not None:
        number = None if others is None else others.number
        routes.append(json_route("/admin/timings", lambda: {"worker": number, **timings.report()}))
    if is_private:
        routes += journal.routes(reloader)
    return routes


def build_admin(
    readiness: health.Readiness,
    plane: DataPlane,
    routes: Sequence[BaseRoute],
    token: SecretStr | None,
    names: Sequence[str] = (),
    about: Callable[[], dict[str, object]] = dict,
) -> ASGIApp:
    """The admin server's application. `token`: bearer token that callers must send; None: no token is required, and pages in browsers are kept off.
    `names`: by which the server may be called, in lower case; its addresses and loopback names are always known. `about`: what /admin says of the
    process, besides the paths that there are."""
    served: list[BaseRoute] = [*health.routes(readiness), json_route("/admin", lambda: {**about(), "paths": paths}), *routes]
    paths = sorted({route.path for route in served if isinstance(route, Route)} | {f"{_EXPLAIN}/{{path}}"})
    app = Starlette(routes=[ExplainRoute(plane), *served])
    app.router.redirect_slashes = False
    install(app)
    if token is None:
        return BrowserGuard(app, names=names, runs=f"{_EXPLAIN}/")
    return TokenGuard(app, token=token.get_secret_value())


class TokenGuard:
    """Admits only requests with `Authorization: Bearer TOKEN`. Compares in constant time. **Source:** RFC 6750."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self.app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if hmac.compare_digest(given, self._expected):
            await self.app(scope, receive, send)
            return
        request_id = request_of(Request(scope)).id
        problem = problems.of_status(401, "Unauthorized", "the admin server requires its bearer token", request_id)
        await respond(problem, {"www-authenticate": 'Bearer realm="anabranch admin"'})(scope, receive, send)


_JSON: Final = {"content-type": "application/json", "cache-control": "no-store"}
