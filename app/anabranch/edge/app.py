"""Builds the FastAPI application: the data plane first, then health, problem pages, OpenAPI, docs, and the users' own routers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from anabranch.describe import docs, pages
from anabranch.describe.openapi import add_failures, describe
from anabranch.edge import faults
from anabranch.edge.dataplane import DataPlane, with_cors
from anabranch.edge.python import fan_out
from anabranch.engine.event import ResponseObserver
from anabranch.guard.concurrency import Gate, GateKeeper
from anabranch.plan.model import DocumentPlan
from anabranch.server import health

_INSIDE: Final = "anabranch.inside"
_NO_TELEMETRY: Final = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}


class Gateway(FastAPI):
    """FastAPI whose OpenAPI description includes the endpoints of the current document. `routers`: the users' own routes."""

    def __init__(self, plane: DataPlane, **options: Any) -> None:
        super().__init__(**options)
        self.plane = plane
        self.routers: list[BaseRoute] = []
        self._keeper: GateKeeper | None = None
        self._described: tuple[DocumentPlan | None, dict[str, Any], bytes] | None = None
        self._python: tuple[DocumentPlan | None, ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests for the document's endpoints straight to the data plane, and all others to FastAPI.

        The data plane handles its own errors and needs nothing from FastAPI's middleware; bypassing that saves a tenth of the CPU time of a
        small aggregate. The data plane is also a route of the router, so that mounting the router alone works too.
        """
        if self._keeper is not None and _INSIDE not in scope:
            scope[_INSIDE] = True
            await self._keeper(scope, receive, send)
            return
        if scope["type"] == "http":
            match, found = self.plane.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await self.plane.handle(scope, receive, send)
                return
            if self._is_python(scope):
                await self._python_app()(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _is_python(self, scope: Scope) -> bool:
        """Whether the document has CORS rules and the path belongs to a route in Python, to which these rules apply too."""
        document = self.plane.document
        if document is None or document.source.cors is None:
            return False
        found = next((route for route in self.router.routes if route.matches(scope)[0] is not Match.NONE), None)
        return found is not None and found in self.routers

    def _python_app(self) -> ASGIApp:
        """The FastAPI application behind the document's CORS rules. Rebuilt after each reload."""
        document = self.plane.document
        python = self._python
        if python is None or python[0] is not document:
            python = self._python = (document, with_cors(super().__call__, None if document is None else document.source.cors))
        return python[1]

    def limit(self, gate: Gate) -> None:
        """Admit every request through `gate` before doing anything else for it. The gateway's own pages are never rejected."""
        self._keeper = GateKeeper(self, gate=gate)

    def openapi(self) -> dict[str, Any]:
        """The whole API in OpenAPI 3.1. Built on first use, and again after each reload."""
        return self._description()[1]

    def openapi_json(self) -> bytes:
        """The description as JSON. The same object until the next reload."""
        return self._description()[2]

    def _description(self) -> tuple[DocumentPlan | None, dict[str, Any], bytes]:
        document = self.plane.document
        described = self._described
        if described is None or described[0] is not document:
            whole = _merged(self, document)
            described = self._described = (document, whole, orjson.dumps(whole))
        return described


def build_app(
    *,
    plane: DataPlane,
    health_status: health.Readiness,
    routers: Sequence[APIRouter] = (),
    extra_routes: Iterable[BaseRoute] = (),
    lifespan: Lifespan[Any] | None = None,
    is_docs_enabled: bool = True,
    observe_others: ResponseObserver | None = None,
) -> Gateway:
    """The application. `extra_routes`: further routes of the control plane, such as /metrics. `observe_others`: called for each request
    to a path that nothing serves.

    The document's endpoints take precedence over routes in Python with the same path, but never over the reserved paths. Trailing slashes
    are significant everywhere: nothing is redirected.
    """
    app = Gateway(
        plane, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY
    )
    app.router.routes.extend([plane, *health.routes(health_status), *pages.routes(), *extra_routes])
    if is_docs_enabled:
        app.router.routes.extend([Route("/openapi.json", _show_openapi, methods=["GET"]), *docs.routes()])
    own = len(app.router.routes)
    for router in routers:
        app.include_router(router)
    app.routers = app.router.routes[own:]
    faults.install(app, observe_others)
    return app


async def _show_openapi(request: Request) -> Response:
    content = request.app.openapi_json()
    return docs.cached(request, content, "application/json", docs.etag(content), "no-cache")


def _merged(app: FastAPI, document: DocumentPlan | None) -> dict[str, Any]:
    source = None if document is None else document.source
    whole = get_openapi(
        title="Anabranch" if source is None else source.title,
        version="1.0.0" if source is None else source.api_version,
        description=None if source is None else source.description or None,
        routes=app.routes,
    )
    taken = whole.get("components", {}).get("schemas", {})
    problem_name = "Problem" if "Problem" not in taken else "GatewayProblem"
    if document is not None:
        _describe_failures(whole, app)
        paths, components = describe(document, problem_name)
        for path, operations in paths.items():
            whole["paths"].setdefault(path, {}).update(operations)
        for kind, named in components.items():
            whole.setdefault("components", {}).setdefault(kind, {}).update(named)
        _answer_validation_with_problems(whole, problem_name)
    return whole


def _describe_failures(whole: dict[str, Any], app: FastAPI) -> None:
    """Add the problem responses of routes in Python, which are those of the document's endpoints."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            operations = whole["paths"].get(route.path_format, {})
            for method in route.methods or ():
                if method.lower() in operations:
                    add_failures(operations[method.lower()], has_fan_out=_uses(route.dependant, fan_out))


def _uses(dependant: Dependant, call: Callable[..., Any]) -> bool:
    return any(one.call is call or _uses(one, call) for one in dependant.dependencies)


def _answer_validation_with_problems(whole: dict[str, Any], problem_name: str) -> None:
    """Replace FastAPI's schema of a 422, since the gateway answers it with a problem document."""
    is_replaced = False
    for operations in whole["paths"].values():
        for operation in operations.values():
            response = operation.get("responses", {}).get("422", {}) if isinstance(operation, dict) else {}
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref") == "#/components/schemas/HTTPValidationError":
                response["content"] = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{problem_name}"}}}
                is_replaced = True
    if is_replaced:
        for name in ("HTTPValidationError", "ValidationError"):
            whole["components"]["schemas"].pop(name, None)
