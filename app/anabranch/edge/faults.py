"""Turns errors outside the data plane (control plane, routes in Python, unknown paths) into problem documents like those of endpoints."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anabranch.edge import problems
from anabranch.edge import request_id as trace
from anabranch.edge.dataplane import join_headers
from anabranch.edge.problems import ProblemResponse
from anabranch.edge.python import request_id_of
from anabranch.engine.event import ResponseEvent, ResponseObserver
from anabranch.errors import MethodNotAllowed, NotFound, RequestError, StepError

logger = logging.getLogger("anabranch.edge")


def install(app: Starlette, observe: ResponseObserver | None = None) -> None:
    """Install the handlers on `app`. `observe`: called for each request to a path that nothing serves; may be None."""
    app.add_exception_handler(HTTPException, _http if observe is None else _Observed(observe))
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(StepError, _step_error)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(_Unexpected)


class _Unexpected:
    """Middleware that logs an unexpected exception under the request's id and answers with the same 500 problem as an endpoint does.

    When part of the response has been sent, nothing more is sent; the server then closes the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting_start)
        except Exception:
            request = Request(scope)
            request_id = _request_id(request)
            route = scope.get("route")
            logger.exception("%s failed unexpectedly, request %s", _route_name(scope["method"], route), request_id)
            if not has_started:
                await respond(problems.internal(request_id), request_id)(scope, receive, send)


def _route_name(method: str, route: object) -> str:
    """The route by its template, for the log: the path that the client sent may contain anything."""
    path = getattr(route, "path", None)
    return "a page of the gateway" if path is None else f"the route {method} {path}"


class _Observed:
    """`_http` that also reports requests to paths without a route. Routes in Python are reported by `FanHeaders`."""

    def __init__(self, observe: ResponseObserver) -> None:
        self._observe = observe

    async def __call__(self, request: Request, error: Exception) -> Response:
        response = await _http(request, error)
        scope = request.scope
        if isinstance(error, HTTPException) and error.status_code == 404 and "endpoint" not in scope:
            parent = trace.read(join_headers(scope["headers"])).traceparent
            request_id = response.headers["x-request-id"].encode()
            path, method = scope["path"], scope["method"]
            self._observe(
                ResponseEvent(None, method, path, 404, NotFound.code, None, 0.0, None, request_id, parent, len(bytes(response.body)))
            )
        return response


async def _http(request: Request, error: Exception) -> Response:
    """A status raised by a route or the router. Its header fields are kept."""
    assert isinstance(error, HTTPException)
    given = {name.lower(): value for name, value in (error.headers or {}).items()}
    request_id = _request_id(request)
    if error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase:
        problem = problems.of_request(NotFound("no endpoint has this path"), request_id)
    elif error.status_code == 405:
        problem = problems.of_request(MethodNotAllowed(f"this path allows {given.get('allow', 'other methods')}"), request_id)
    elif error.status_code < 400:
        return Response(status_code=error.status_code, headers={**given, "x-request-id": request_id})
    else:
        title = _phrase(error.status_code)
        detail = error.detail if isinstance(error.detail, str) else title
        errors: list[dict[str, Any]] = [] if isinstance(error.detail, str) else _as_errors(error.detail)
        problem = problems.of_status(error.status_code, title, detail, request_id, errors)
    return respond(problem, request_id, given)


async def _validation(request: Request, error: Exception) -> Response:
    """A request that fails FastAPI's checks of a route in Python: 422, as in the OpenAPI description. The values are omitted."""
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()]
    request_id = _request_id(request)
    count = "1 value is" if len(faults) == 1 else f"{len(faults)} values are"
    problem = problems.of_status(422, "Invalid request", f"{count} missing or invalid; see errors", request_id, faults)
    return respond(problem, request_id)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request_id = _request_id(request)
    return respond(problems.of_request(error, request_id), request_id)


async def _step_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StepError)
    request_id = _request_id(request)
    return respond(problems.of_failure(error, request_id), request_id)


async def _unexpected(request: Request, error: Exception) -> Response:
    """The last resort, for errors outside `_Unexpected`. Starlette raises the error again after this response, and the server logs it."""
    request_id = _request_id(request)
    return respond(problems.internal(request_id), request_id)


def _request_id(request: Request) -> str:
    return request_id_of(request).decode()


def respond(problem: ProblemResponse, request_id: str, given: dict[str, str] | None = None) -> Response:
    """The problem as a Starlette response. `given`: further header fields, lower-case names; the problem's own win."""
    headers = {**(given or {}), **{name.decode("latin-1"): value.decode("latin-1") for name, value in problem.headers}}
    headers.pop("content-length", None)
    return Response(problem.body, problem.status, {**headers, "x-request-id": request_id})


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _as_errors(detail: Any) -> list[dict[str, Any]]:
    items: Sequence[Any] = detail if isinstance(detail, list) else [detail]
    return [item if isinstance(item, dict) else {"detail": str(item)} for item in items]


def _fault(fault: dict[str, Any]) -> dict[str, Any]:
    """One entry of `errors`. pydantic's `loc` is (location, name, ...)."""
    location, *names = fault.get("loc", ()) or ("body",)
    return {"in": location, "name": ".".join(str(name) for name in names), "detail": fault.get("msg", "is invalid")}
