"""The document's rules around everything but the gateway's own pages: endpoints, routes in Python, and paths that nothing serves."""

from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.core.forwarding import public_prefix
from anabranch.edge import problems, request_id
from anabranch.edge.respond import of_problem, send_response
from anabranch.edge.scope import join_headers, readings
from anabranch.edge.served import Served
from anabranch.engine.event import ResponseObserver
from anabranch.guard.rules import Rules

_POLICY_VIOLATION: Final = 1008
"""Close code of a WebSocket that a rule refuses (RFC 6455 section 7.4.1): its opening is answered 403."""


class Ruled:
    """ASGI middleware. `observe`: called for each request that is refused; may be None."""

    def __init__(self, app: ASGIApp, rules: Rules, observe: ResponseObserver | None) -> None:
        self._app = app
        self._rules = rules
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = join_headers(scope["headers"])
        method: str = scope.get("method", "GET")
        error = self._rules.refusal(method, readings(scope), scope.get("query_string", b""), headers, scope.get("client"))
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the connection's opening
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            served = Served(method, scope["path"], request_id.read(headers), monotonic())
            prefix = public_prefix(headers.get(b"x-forwarded-prefix"), scope.get("root_path", ""))
            problem = problems.of_request(error, served.trace.request_id, prefix)
            if (demanded := problems.demanded_field(problem.status)) is not None:
                problem.headers.append(demanded)
            response = of_problem(problem, is_head=method == "HEAD")
            served.code, served.status = error.code, response.status
            served.sent_bytes = await send_response(response, send)
            served.end(self._observe)
