"""Admission to the whole gateway: every request gets a slot of the process's gate, or 503, before anything else is done for it."""

from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.core.forwarding import public_prefix
from anabranch.edge import problems, request_id
from anabranch.edge.respond import of_problem, send_response
from anabranch.errors import Overloaded
from anabranch.guard.concurrency import Gate, at_limit
from anabranch.plan.routes import RESERVED

ADMITTED: Final = "anabranch.admitted"
"""Key in the scope of a request whose slot was acquired before it was parsed."""
OPEN_TO_ALL: Final = frozenset(RESERVED)
"""First segments of the gateway's own pages, health included: they use a slot when one is free, but are never queued or rejected."""
_TRY_AGAIN_LATER: Final = 1013
"""Close code of a WebSocket that gets no slot (IANA WebSocket Close Code Number Registry)."""

Headers = list[tuple[bytes, bytes]]


class Rejections(Protocol):
    """What a rejection needs from the document in force."""

    def cross_origin_fields(self, origin: bytes | None) -> Headers:
        """For a response to a request with this `Origin` that does not come from an application."""
        ...


class Admission:
    """ASGI middleware. HTTP requests and WebSocket connections alike hold a slot until they end."""

    def __init__(self, app: ASGIApp, *, gate: Gate, rejections: Rejections) -> None:
        self._app = app
        self._gate = gate
        self._rejections = rejections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate = self._gate
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if ADMITTED not in scope and not gate.try_enter():
            if scope["path"][1:].split("/", 1)[0] in OPEN_TO_ALL:
                await self._app(scope, receive, send)
                return
            try:
                await gate.enter()
            except Overloaded:
                await self._reject(scope, receive, send)
                return
        try:
            await self._app(scope, receive, send)
        finally:
            gate.leave()

    async def _reject(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # the connection's opening
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
            return
        problem = rejection(scope["headers"], self._rejections, scope.get("root_path", ""))
        await send_response(of_problem(problem, is_head=scope["method"] == "HEAD"), send)


def rejection(lines: Headers, rejections: Rejections, root_path: str = "") -> problems.ProblemResponse:
    """The 503 for a request with these header lines (lower-case names). `root_path`: where the application is mounted."""
    headers = dict(lines)
    prefix = public_prefix(headers.get(b"x-forwarded-prefix"), root_path)
    problem = problems.of_request(at_limit(), request_id.read(headers).request_id, prefix)
    problem.headers.extend(rejections.cross_origin_fields(headers.get(b"origin")))
    return problem
