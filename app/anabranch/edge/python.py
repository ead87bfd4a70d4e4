"""`Fan`: the FastAPI dependency through which a Python route calls the document's upstreams, and the middleware for its outcome headers.

@router.get("/things/{id}")
async def thing(id: int, fan: Fan) -> Thing:
    user, orders = await fan.gather(fan.call("users", f"/users/{id}"), fan.call("orders", "/orders", query={"user": id}, optional=True))
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any, Final

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anabranch.edge import problems
from anabranch.edge import request_id as trace
from anabranch.edge.dataplane import Generation, join_headers
from anabranch.edge.disconnect import DisconnectWatch
from anabranch.edge.respond import outcome_headers
from anabranch.engine.event import RequestSpan, RequestTracer, ResponseEvent, ResponseObserver
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.python import FanCall, FanOut, FanOutFailed, UpstreamHandle, segment

__all__ = ["Fan", "FanCall", "FanHeaders", "FanOut", "FanOutFailed", "FanSource", "segment"]

_SCOPE_KEY: Final = "anabranch.fan"
_MOST_LISTED: Final = 50
"""Most calls listed in Server-Timing and Proxy-Status. A route that calls in a loop must not produce a head too large for proxies."""


@dataclass(frozen=True, slots=True)
class FanSource:
    """What a fan-out needs from the current document. A reload replaces the source; a request keeps the one that it started with.

    `upstream_handles`: handles of the document's upstreams, by name. `timeout_s`: default deadline in seconds. `generation`: counts requests that
    fan out as in flight until they end. `tracer`: starts the spans of these requests; may be None.
    """

    upstream_handles: Mapping[str, UpstreamHandle]
    timeout_s: float
    generation: Generation
    tracer: RequestTracer | None = None


class _FanUse:
    """Filled by the dependency for the middleware: what a request used for its fan-out. `fan`: None when the route used none."""

    __slots__ = ("fan", "generation", "request_id", "span")

    def __init__(self) -> None:
        self.fan: FanOut | None = None
        self.generation: Generation | None = None
        self.request_id = b""
        self.span: RequestSpan | None = None


class _WatchedFanOut(FanOut):
    """A fan-out that cancels its calls when the client disconnects."""

    def __init__(self, request: Request, upstream_handles: Mapping[str, UpstreamHandle], **options: Any) -> None:
        super().__init__(upstream_handles, **options)
        self._receive = request.receive

    async def gather(self, *calls: FanCall) -> list[Any]:
        watch = DisconnectWatch(self._receive, asyncio.get_running_loop())
        try:
            try:
                values = await super().gather(*calls)
            finally:
                await watch.stop()
        except asyncio.CancelledError:
            if watch.absorb():
                raise ClientGone from None
            raise
        if watch.is_gone:
            watch.absorb()
            raise ClientGone
        return values


class ClientGone(Exception):
    """The client disconnected. There is nobody to answer."""


async def fan_out(request: Request) -> FanOut:
    """The dependency behind `Fan`. A coroutine function, since FastAPI runs plain functions in a thread, which has no event loop."""
    source: FanSource = request.app.state.fan_source
    headers = join_headers(request.scope["headers"])
    context = trace.read(headers)
    deadline = monotonic() + source.timeout_s
    fan = _WatchedFanOut(request, source.upstream_handles, deadline=deadline, client_headers=headers, extra=context.extra)
    used: _FanUse = request.scope[_SCOPE_KEY]
    if used.generation is None:
        used.generation = source.generation
        used.generation.active += 1
        if source.tracer is not None:
            scope = request.scope
            route = scope["route"].path
            used.span = source.tracer.begin(route, route, scope["method"], scope["path"], headers)
    used.fan = fan
    used.request_id = context.request_id
    return fan


Fan = Annotated[FanOut, Depends(fan_out)]
"""Type of a route parameter that receives the fan-out of the request."""


class FanHeaders:
    """Middleware that adds `Gateway-Complete`, `Server-Timing`, `Proxy-Status` and `X-Request-Id` to responses of routes that used a fan.

    Header fields that the route sets itself are kept. `observe`: called for each request to a route in Python, with or without a fan; may
    be None.
    """

    def __init__(self, app: ASGIApp, observe: ResponseObserver | None = None) -> None:
        self.app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        used = scope[_SCOPE_KEY] = _FanUse()
        began = monotonic()
        status, sent_bytes = 500, 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent_bytes += len(message.get("body", b""))
            if used.fan is not None and message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message.get("headers", ())}
                added = [pair for pair in _outcome_headers(used.fan, used.request_id) if pair[0] not in named]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            if used.generation is not None:
                used.generation.leave()
            route = scope.get("route")
            if (self._observe is not None or used.span is not None) and isinstance(route, APIRoute):
                event = _event(scope, route.path, used, status, monotonic() - began, sent_bytes)
                if used.span is not None:
                    used.span.end(event)
                if self._observe is not None:
                    self._observe(event)


def _event(scope: Scope, route: str, used: _FanUse, status: int, elapsed_s: float, sent_bytes: int) -> ResponseEvent:
    context = trace.read(join_headers(scope["headers"]))
    fan = used.fan if used.fan is not None and used.fan.outcomes else None
    result = None if fan is None else Result(outcomes=fan.outcomes, status=status, body=None, is_complete=fan.is_complete)
    return ResponseEvent(
        route,
        scope["method"],
        scope["path"],
        status,
        None,
        None if fan is None else fan.is_complete,
        elapsed_s,
        result,
        used.request_id or context.request_id,
        context.traceparent if used.span is None else used.span.traceparent,
        sent_bytes,
    )


def _outcome_headers(fan: FanOut, request_id: bytes) -> list[tuple[bytes, bytes]]:
    return [*outcome_headers(_listed(fan.outcomes), is_complete=fan.is_complete), (b"x-request-id", request_id)]


def _listed(outcomes: list[Outcome]) -> list[Outcome]:
    """All outcomes; when there are more than `_MOST_LISTED`, that many, the failed ones first."""
    if len(outcomes) <= _MOST_LISTED:
        return outcomes
    return sorted(outcomes, key=lambda outcome: outcome.failure is None)[:_MOST_LISTED]


def request_id_of(request: Request) -> bytes:
    """The id of this request: the same in its upstream calls, its response and the log."""
    used: _FanUse | None = request.scope.get(_SCOPE_KEY)
    if used is None:
        return trace.read(join_headers(request.scope["headers"])).request_id
    if not used.request_id:
        used.request_id = trace.read(join_headers(request.scope["headers"])).request_id
    return used.request_id


async def answer_failed(request: Request, error: Exception) -> Response:
    """Exception handler of FanOutFailed: the same problem as from an endpoint of the document."""
    assert isinstance(error, FanOutFailed)
    used: _FanUse = request.scope[_SCOPE_KEY]
    result = Result(outcomes=error.outcomes, status=error.failure.status, body=None, is_complete=False, failure=error.failure)
    problem = problems.of_result(result, used.request_id.decode())
    return Response(problem.body, problem.status, {name.decode(): value.decode() for name, value in problem.headers})


async def answer_gone(request: Request, error: Exception) -> Response:
    """Exception handler of ClientGone: a placeholder that no client receives (499, as in nginx access logs)."""
    return Response(status_code=499)
