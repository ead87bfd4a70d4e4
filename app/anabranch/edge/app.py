"""Builds the FastAPI application: the data plane first, then the control plane's routes, and the users' own routers."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.core.forwarding import client_address
from anabranch.core.principal import Principal
from anabranch.describe import docs, pages
from anabranch.describe.whole import describe_app, with_server
from anabranch.document.part import Part
from anabranch.document.service import Service
from anabranch.edge import faults, problems, request_id
from anabranch.edge.admission import OPEN_TO_ALL, Admission, Headers
from anabranch.edge.cors import CrossOrigin
from anabranch.edge.dataplane import DataPlane
from anabranch.edge.generation import Generation
from anabranch.edge.opening import Opening, with_reason
from anabranch.edge.python import FanSource, PythonRoutes, fan_out, request_of
from anabranch.edge.rules import Ruled
from anabranch.edge.scope import join_headers, raw_path
from anabranch.engine.event import RequestTracer, ResponseObserver
from anabranch.guard.concurrency import Gate
from anabranch.guard.guarding import Guarding
from anabranch.guard.rules import Rules
from anabranch.guard.tally import Tally
from anabranch.plan.model import DocumentPlan

logger = logging.getLogger("anabranch")

_NO_TELEMETRY: Final = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}


class Gateway(FastAPI):
    """FastAPI that serves a document: its endpoints by the data plane, everything else by FastAPI, both behind the document's CORS rules.

    `fan_source`: what routes in Python call upstreams with; None before the first `load`.
    """

    def __init__(self, plane: DataPlane, *, tracer: RequestTracer | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.plane = plane
        self.fan_source: FanSource | None = None
        self._tracer = tracer
        self._guarding: Guarding | None = None
        self._gate: Gate | None = None
        self._cors: CrossOrigin | None = None
        self._rules: Rules | None = None
        self._opening = Opening(self._set_open)
        self._open_chain: ASGIApp = self._route
        self._chain: ASGIApp = self._open_first
        self._described: tuple[DocumentPlan | None, dict[str, Any], bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._chain(scope, receive, send)

    async def _open_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that comes before the lifespan: an application that mounts this one, or a bare transport, runs none."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, with_reason(send))
            return
        try:
            await self._opening.ensure()
        except Exception:
            logger.exception("the gateway could not be opened")
            await faults.respond(problems.internal(request_id.read(join_headers(scope["headers"])).request_id))(scope, receive, send)
            return
        await self._open_chain(scope, receive, send)

    def _set_open(self, is_open: bool) -> None:
        self._chain = self._open_chain if is_open else self._open_first

    def add_parts(self, *parts: Part | None) -> None:
        """What is opened with the gateway, in this order, and closed with it. None stands for a part that there is not."""
        self._opening.parts += [part for part in parts if part is not None]

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open the gateway for as long as the context lasts: for the lifespan of an application that this one is mounted in."""
        return self._opening.opened()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests for the document's endpoints straight to the data plane, and all others to FastAPI.

        The data plane handles its own errors and needs nothing from FastAPI's middleware; bypassing that saves a tenth of the CPU time of a
        small aggregate. The data plane is also a route of the router, so that mounting the router alone works too.
        """
        if scope["type"] == "http":
            found = self.plane.find(raw_path(scope))
            if found is not None:
                await self.plane.serve(found, scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def load(self, service: Service) -> Generation:
        """Serve the service's document from the next request on, and to routes in Python. Returns the previous generation; requests that
        started on it finish on it."""
        document = service.plan
        guarding = self._guarding = service.find(Guarding)
        before = self.plane.load(document, service.engine.bind, service.recorder_of, guarding)
        self.fan_source = FanSource(
            service.upstream_handles,
            document.timeout_s,
            self.plane.generation,
            self._tracer,
            public_names=document.public_names,
            proxies=self.plane.proxies,
        )
        self._cors = None if document.cors is None else CrossOrigin(document.cors)
        tally = Tally() if guarding is None else guarding.tally
        self._rules = None if document.rules is None else Rules(document.rules, self.plane.proxies, tally)
        self._build_chain()
        return before

    async def find_principal(self, request: Request, names: tuple[str, ...]) -> Principal:
        """The client of a request to a route in Python; see `document.authenticated`."""
        python = request_of(request)
        guarding = self._guarding
        assert guarding is not None, "a route in Python is served after the first load"
        checkpoint = guarding.checkpoint(names or guarding.default)
        python.principal = checkpoint.recall(python)
        if python.principal is None:
            sender = client_address(python.headers, request.scope.get("client"), self.plane.proxies)
            python.principal = await checkpoint.find(python, sender)
        return python.principal

    def limit(self, gate: Gate) -> None:
        """Admit every request through `gate` before doing anything else for it. The gateway's own pages are never rejected."""
        self._gate = gate
        self._build_chain()

    def _build_chain(self) -> None:
        """What a request goes through, outermost first: admission, cross-origin rules, rules, routing."""
        own = ruled = chain = self._route
        if self._rules is not None:
            ruled = Ruled(ruled, self._rules, self.plane.observe_others)
        if self._cors is not None:
            ruled = self._cors.around(ruled)
        if ruled is not own:
            chain = _ButOwnPages(ruled, own)
        if self._gate is not None:
            chain = Admission(chain, gate=self._gate, rejections=self)
        self._open_chain = chain
        if self._opening.is_open:
            self._chain = chain

    def cross_origin_fields(self, origin: bytes | None) -> Headers:
        """For a response to a request with this `Origin` that never reaches the application."""
        return [] if self._cors is None else self._cors.fields(origin)

    def openapi(self) -> dict[str, Any]:
        """The whole API in OpenAPI 3.1. Built on first use, and again after each reload."""
        return self._description()[1]

    def openapi_json(self, prefix: str = "") -> bytes:
        """The description as JSON, for a client that sees the gateway below `prefix`. Without one, its calls are relative to the description."""
        described = self._description()
        return with_server(described[1], prefix) if prefix else described[2]

    def _description(self) -> tuple[DocumentPlan | None, dict[str, Any], bytes]:
        document = self.plane.document
        described = self._described
        if described is None or described[0] is not document:
            whole = describe_app(self, document, fan_out)
            described = self._described = (document, whole, with_server(whole, "."))
        return described


class _ButOwnPages:
    """Rules for everything but the gateway's own pages: no other site has a business with /metrics, and probes must not fail by a rule."""

    def __init__(self, ruled: ASGIApp, own: ASGIApp) -> None:
        self._ruled = ruled
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_own = scope["type"] == "lifespan" or scope["path"][1:].split("/", 1)[0] in OPEN_TO_ALL
        await (self._own if is_own else self._ruled)(scope, receive, send)


def build_app(
    *,
    plane: DataPlane,
    routers: Sequence[APIRouter] = (),
    routes: Iterable[BaseRoute] = (),
    is_docs_enabled: bool = True,
    observe_others: ResponseObserver | None = None,
    tracer: RequestTracer | None = None,
) -> Gateway:
    """The application. `routes`: of the control plane, such as health and metrics. `observe_others`: called for each request to a route in
    Python, and to a path that nothing serves.

    The document's endpoints take precedence over routes in Python with the same path, but never over the reserved paths. Trailing slashes
    are significant everywhere: nothing is redirected.
    """
    app = Gateway(
        plane,
        tracer=tracer,
        lifespan=lambda gateway: gateway.opened(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.router.routes.extend([plane, *routes, *pages.routes()])
    if is_docs_enabled:
        app.router.routes.extend([Route("/openapi.json", _show_openapi, methods=["GET"]), *docs.routes()])
    for router in routers:
        app.include_router(router)
    faults.install(app)
    app.add_middleware(PythonRoutes, observe=observe_others)
    return app


async def _show_openapi(request: Request) -> Response:
    content = request.app.openapi_json(request_of(request).prefix)
    response = docs.cached(request, content, "application/json", docs.etag(content), "no-cache")
    response.headers["vary"] = "X-Forwarded-Prefix"
    return response
