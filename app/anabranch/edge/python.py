"""`Fan`: the FastAPI dependency through which a Python route calls the document's upstreams, and the life of a request to such a route.

@router.get("/things/{id}")
async def thing(id: int, fan: Fan) -> Thing:
    user, orders = await fan.gather(fan.call("users", f"/users/{id}"), fan.call("orders", "/orders", query={"user": id}, optional=True))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anabranch.core.certificate import certificate_of
from anabranch.core.forwarding import Arrival, TrustedProxies, public_prefix
from anabranch.core.principal import Principal
from anabranch.edge import request_id
from anabranch.edge.disconnect import run_watched
from anabranch.edge.generation import Generation
from anabranch.edge.respond import outcome_headers
from anabranch.edge.scope import join_headers
from anabranch.edge.served import Served
from anabranch.engine.answer import FanAnswer
from anabranch.engine.event import RequestTracer, ResponseObserver
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.python import FanCall, FanOut, FanOutFailed, UpstreamHandle, segment
from anabranch.plan.names import Numbers, numbered

__all__ = ["Fan", "FanAnswer", "FanCall", "FanOut", "FanOutFailed", "FanSource", "Outcome", "PythonRoutes", "segment"]

T = TypeVar("T")

_KEY: Final = "anabranch.python"


@dataclass(frozen=True, slots=True)
class FanSource:
    """What a fan-out needs from the current document. A reload replaces the source; a request keeps the one that it started with.

    `upstream_handles`: handles of the document's upstreams, by name. `timeout_s`: default deadline in seconds. `generation`: counts requests that
    fan out as in flight until they end. `tracer`: starts the spans of these requests; may be None. `public_names`: whether clients see the names
    of calls and upstreams. `proxies`: in front of the gateway.
    """

    upstream_handles: Mapping[str, UpstreamHandle]
    timeout_s: float
    generation: Generation
    tracer: RequestTracer | None = None
    public_names: bool = True
    proxies: TrustedProxies = field(default_factory=TrustedProxies)


class PythonRequest:
    """One request to FastAPI. `principal`: its client; None until the route asks who it is. `fan`: None until the route asks for it, and then `source` is what it calls. `is_unknown`: no route has its path."""

    __slots__ = ("certificate", "fan", "headers", "is_unknown", "principal", "query", "root_path", "served", "source")

    def __init__(self, scope: Scope) -> None:
        self.headers = join_headers(scope["headers"])
        self.query: bytes = scope.get("query_string", b"")
        self.certificate = certificate_of(scope)
        self.principal: Principal | None = None
        self.served = Served(scope["method"], scope["path"], request_id.read(self.headers), monotonic())
        self.served.status = 500
        self.root_path: str = scope.get("root_path", "")
        self.fan: FanOut | None = None
        self.source: FanSource | None = None
        self.is_unknown = False

    @property
    def id(self) -> bytes:
        return self.served.trace.request_id

    @property
    def prefix(self) -> str:
        """The path below which the client sees the gateway."""
        return public_prefix(self.headers.get(b"x-forwarded-prefix"), self.root_path)

    @property
    def numbers(self) -> Numbers | None:
        """What clients see in place of the names of calls, in the order in which these ended; None: the names."""
        fan, source = self.fan, self.source
        if fan is None or source is None or source.public_names:
            return None
        return numbered((outcome.step for outcome in fan.outcomes), source.upstream_handles)

    def outcome_headers(self) -> list[tuple[bytes, bytes]]:
        """What the response says of the fan-out; nothing when there was none."""
        fan = self.fan
        if fan is None:
            return []
        return [*outcome_headers(fan.outcomes, self.numbers, is_complete=fan.is_complete), (b"x-request-id", self.id)]

    def end(self, route: APIRoute | None, observe: ResponseObserver | None) -> None:
        """The response was sent, or never will be. `route`: the one that was found; None: none of the users' routes."""
        fan, served = self.fan, self.served
        if fan is not None and fan.outcomes:
            served.result = Result(outcomes=fan.outcomes, status=served.status, body=None, is_complete=fan.is_complete)
        is_reported = route is not None or self.is_unknown
        served.end(observe if is_reported else None, None if route is None else route.path)


class _WatchedFanOut(FanOut):
    """A fan-out that cancels its calls when the client disconnects."""

    def __init__(self, request: Request, upstream_handles: Mapping[str, UpstreamHandle], **options: Any) -> None:
        super().__init__(upstream_handles, **options)
        self._receive = request.receive

    async def gather(self, *calls: FanCall[T]) -> list[T]:
        return await run_watched(self._receive, super().gather(*calls))


async def fan_out(request: Request) -> FanOut:
    """The dependency behind `Fan`. A coroutine function, since FastAPI runs plain functions in a thread, which has no event loop."""
    source: FanSource = request.app.fan_source
    python = request_of(request)
    served = python.served
    if not served.is_counted:
        route = request.scope["route"].path
        served.begin(route, route, python.headers, source.generation, source.tracer)
    python.source = source
    python.fan = _WatchedFanOut(
        request,
        source.upstream_handles,
        deadline=monotonic() + source.timeout_s,
        client_headers=python.headers,
        extra=served.trace.extra,
        principal=lambda: python.principal,
        arrival=Arrival(python.headers, request.scope.get("client"), request.scope.get("scheme", "http"), python.root_path, source.proxies),
    )
    return python.fan


Fan = Annotated[FanOut, Depends(fan_out)]
"""Type of a route parameter that receives the fan-out of the request."""


class PythonRoutes:
    """ASGI middleware around FastAPI: gives each request its life, and responses of routes that used a fan the fields that tell how it went.

    `Gateway-Complete`, `Server-Timing`, `Proxy-Status` and `X-Request-Id`, and `Cache-Control: no-store` when a call has failed; a route's own
    fields of these names are kept. `observe`: called for
    each request to a route in Python, with or without a fan, and for each to a path that nothing serves; may be None.
    """

    def __init__(self, app: ASGIApp, observe: ResponseObserver | None = None) -> None:
        self.app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        python = scope[_KEY] = PythonRequest(scope)
        served = python.served

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                served.status = message["status"]
                if python.fan is not None:
                    named = {name.lower() for name, _ in message.get("headers", ())}
                    added = [field for field in python.outcome_headers() if field[0] not in named]
                    message = {**message, "headers": [*message.get("headers", ()), *added]}
            else:
                served.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            python.end(route if isinstance(route, APIRoute) else None, self._observe)


def request_of(request: Request) -> PythonRequest:
    """The request as the gateway knows it: its id, and what is reported of it."""
    found: PythonRequest | None = request.scope.get(_KEY)
    if found is None:
        found = request.scope[_KEY] = PythonRequest(request.scope)
    return found
