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

from anabranch.compute.refusal import Refused
from anabranch.core.validation import sentence_of
from anabranch.edge import problems
from anabranch.edge.disconnect import ClientGone
from anabranch.edge.problems import ProblemResponse
from anabranch.edge.python import FanOutFailed, request_of
from anabranch.edge.served import CLIENT_GONE
from anabranch.engine.outcome import Result
from anabranch.errors import AnabranchError, MethodNotAllowed, NotFound, RequestError, StepError

logger = logging.getLogger("anabranch.edge")


def install(app: Starlette) -> None:
    """Install the handlers on `app`."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(StepError, _step_error)
    app.add_exception_handler(FanOutFailed, _fan_out_failed)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(ClientGone, _client_gone)
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
            python = request_of(Request(scope))
            route = scope.get("route")
            logger.exception("%s failed unexpectedly, request %s", _route_name(scope["method"], route), python.id.decode())
            python.served.code = AnabranchError.code
            if not has_started:
                await respond(problems.internal(python.id, python.prefix))(scope, receive, send)


def _route_name(method: str, route: object) -> str:
    """The route by its template, for the log: the path that the client sent may contain anything."""
    path = getattr(route, "path", None)
    return "a page of the gateway" if path is None else f"the route {method} {path}"


async def _http(request: Request, error: Exception) -> Response:
    """A status raised by a route or the router. Its header fields are kept."""
    assert isinstance(error, HTTPException)
    given = {name.lower(): value for name, value in (error.headers or {}).items()}
    python = request_of(request)
    if error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase:
        python.is_unknown = "endpoint" not in request.scope
        return _request_fault(request, NotFound("no endpoint has this path"), given)
    if error.status_code == 405:
        return _request_fault(request, MethodNotAllowed(f"this path allows {given.get('allow', 'other methods')}"), given)
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers={**given, "x-request-id": python.id.decode()})
    title = _phrase(error.status_code)
    detail = error.detail if isinstance(error.detail, str) else title
    errors: list[dict[str, Any]] = [] if isinstance(error.detail, str) else _as_errors(error.detail)
    if (demanded := problems.demanded_field(error.status_code)) is not None:
        given = {demanded[0].decode(): demanded[1].decode(), **given}
    return respond(problems.of_status(error.status_code, title, detail, python.id, errors), given)


async def _validation(request: Request, error: Exception) -> Response:
    """A request that fails FastAPI's checks of a route in Python: 422, as in the OpenAPI description. The values are omitted."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    faults = [_fault(fault) for fault in found[: problems.MOST_ERRORS]]
    if len(found) > problems.MOST_ERRORS:
        faults.append({"detail": f"and {len(found) - problems.MOST_ERRORS} more faults"})
    count = "1 value is" if len(found) == 1 else f"{len(found)} values are"
    return respond(problems.of_status(422, "Invalid request", f"{count} missing or invalid; see errors", request_of(request).id, faults))


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _request_fault(request, error)


def _request_fault(request: Request, error: RequestError, given: dict[str, str] | None = None) -> Response:
    python = request_of(request)
    python.served.code = error.code
    return respond(problems.of_request(error, python.id, python.prefix), given)


async def _step_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StepError)
    python = request_of(request)
    python.served.code = error.code
    return respond(problems.of_failure(error, python.id, python.prefix))


async def _fan_out_failed(request: Request, error: Exception) -> Response:
    """The same problem as from an endpoint of the document."""
    assert isinstance(error, FanOutFailed)
    python = request_of(request)
    python.served.code = error.failure.code
    result = Result(outcomes=error.outcomes, status=error.failure.status, body=None, is_complete=False, failure=error.failure)
    return respond(problems.of_result(result, python.id, python.prefix, python.numbers))


async def _refused(request: Request, error: Exception) -> Response:
    """The same problem as when a hook of an endpoint refuses."""
    assert isinstance(error, Refused)
    python = request_of(request)
    refused = error.refusal.to_error()
    python.served.code = refused.code
    return respond(problems.of_refusal(refused, python.id, python.prefix))


async def _client_gone(request: Request, error: Exception) -> Response:
    """A placeholder that no client receives."""
    return Response(status_code=CLIENT_GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    """The last resort, for errors outside `_Unexpected`. Starlette raises the error again after this response, and the server logs it."""
    python = request_of(request)
    return respond(problems.internal(python.id, python.prefix))


def respond(problem: ProblemResponse, given: dict[str, str] | None = None) -> Response:
    """The problem as a Starlette response. `given`: further header fields, lower-case names; the problem's own win."""
    headers = {**(given or {}), **{name.decode("latin-1"): value.decode("latin-1") for name, value in problem.headers}}
    headers.pop("content-length", None)
    return Response(problem.body, problem.status, headers)


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
    return {"in": location, "name": ".".join(str(name) for name in names), "detail": sentence_of(fault)}
