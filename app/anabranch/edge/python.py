"""`Fan`: the dependency that gives a Python route the document's upstreams, and the headers that say how the fan-out went.

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
_MOST_SHOWN: Final = 50
"""Calls in Server-Timing and Proxy-Status. A route that calls in a loop must not make a head that proxies refuse."""


@dataclass(frozen=True, slots=True)
class FanSource:
    """Where fan-outs come from: the surfaces of the document in force and its default deadline in seconds. A reload puts another one in its
    place; a request keeps the one that it began with. `generation`: where such requests count as running until they have ended.
    `tracer`: makes the spans of requests that fan out; may be None."""

    surfaces: Mapping[str, UpstreamHandle]
    timeout_s: float
    generation: Generation
    tracer: RequestTracer | None = None


class _Used:
    """What the middleware learns of a request's fan-out."""

    __slots__ = ("fan", "generation", "request_id", "span")

    def __init__(self) -> None:
        self.fan: FanOut | None = None
        self.generation: Generation | None = None
        self.request_id = b""
        self.span: RequestSpan | None = None


class _WatchedFanOut(FanOut):
    """A fan-out that ends when its client goes."""

    def __init__(self, request: Request, surfaces: Mapping[str, UpstreamHandle], **options: Any) -> None:
        super().__init__(surfaces, **options)
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
    """Nobody waits for the answer any more."""


async def fan_out(request: Request) -> FanOut:
    """The dependency behind `Fan`. A coroutine function: FastAPI runs plain ones in a thread, where there is no loop to take time from."""
    source: FanSource = request.app.state.fan_source
    headers = join_headers(request.scope["headers"])
    context = trace.read(headers)
    deadline = monotonic() + source.timeout_s
    fan = _WatchedFanOut(request, source.surfaces, deadline=deadline, client_headers=headers, extra=context.extra)
    used: _Used = request.scope[_SCOPE_KEY]
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
"""A route's parameter of this type is the fan-out of its request."""


class FanHeaders:
    """Middleware that puts `Gateway-Complete`, `Server-Timing`, `Proxy-Status` and `X-Request-Id` on responses of routes that used a fan.

    `observe`: told of each request to a route in Python, whether it used a fan or not; may be None.
    """

    def __init__(self, app: ASGIApp, observe: ResponseObserver | None = None) -> None:
        self.app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        used = scope[_SCOPE_KEY] = _Used()
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


def _event(scope: Scope, route: str, used: _Used, status: int, elapsed_s: float, sent_bytes: int) -> ResponseEvent:
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
    return [*outcome_headers(_shown(fan.outcomes), is_complete=fan.is_complete), (b"x-request-id", request_id)]


def _shown(outcomes: list[Outcome]) -> list[Outcome]:
    """All outcomes or, where they are too many, the failed ones and the first of the others."""
    if len(outcomes) <= _MOST_SHOWN:
        return outcomes
    return sorted(outcomes, key=lambda outcome: outcome.failure is None)[:_MOST_SHOWN]


def request_id_of(request: Request) -> bytes:
    """The id of this request: what its upstreams were told, its answer says, and the log has."""
    used: _Used | None = request.scope.get(_SCOPE_KEY)
    if used is None:
        return trace.read(join_headers(request.scope["headers"])).request_id
    if not used.request_id:
        used.request_id = trace.read(join_headers(request.scope["headers"])).request_id
    return used.request_id


async def answer_failed(request: Request, error: Exception) -> Response:
    """The exception handler of FanOutFailed: the same problem that an endpoint of the document would give."""
    assert isinstance(error, FanOutFailed)
    used: _Used = request.scope[_SCOPE_KEY]
    result = Result(outcomes=error.outcomes, status=error.failure.status, body=None, is_complete=False, failure=error.failure)
    problem = problems.of_result(result, used.request_id.decode())
    return Response(problem.body, problem.status, {name.decode(): value.decode() for name, value in problem.headers})


async def answer_gone(request: Request, error: Exception) -> Response:
    """The exception handler of ClientGone: whatever is answered, nobody reads it (499 as in access logs of nginx)."""
    return Response(status_code=499)
