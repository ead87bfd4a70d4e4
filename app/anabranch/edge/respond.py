"""Builds the response from a request's result and sends it. Sets header fields and framing; bodies come from the plan and `problems`."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from starlette.types import Send

from anabranch.core.status import BODYLESS
from anabranch.edge.fields import age, cache_status, has_stored, proxy_status, server_timing
from anabranch.edge.passed import head_of, passed_on
from anabranch.edge.problems import HeaderList, ProblemResponse, demanded_field, of_result
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import HeaderPairs, ResponseField, ResponsePlan
from anabranch.plan.names import Numbers
from anabranch.plan.response import CACHING

_COMPLETE: Final = (b"gateway-complete", b"?1")
_PARTIAL: Final = (b"gateway-complete", b"?0")
_NO_STORE: Final = (b"cache-control", b"no-store")
_JSON_TYPE: Final = (b"content-type", b"application/json")
_FIRST_ERROR: Final = 400
_WITHOUT_LENGTH: Final = frozenset({204, 304})
"""Statuses whose content-length would say nothing, or speak of another response (RFC 9110 section 8.6)."""


class Response(msgspec.Struct, gc=False):
    """A complete response. `headers`, `body`: exactly as sent."""

    status: int
    headers: HeaderList
    body: bytes


class Responder:
    """Builds the responses of one endpoint. Created once per plan, so that constant header fields are rendered only once.

    `numbers`: in place of names; None: the names. `allow`: the methods that the endpoint's path has besides this endpoint's.
    """

    __slots__ = ("_allow", "_fields", "_head", "_numbers", "_partial_fields", "_partial_head", "_passing")

    def __init__(self, plan: ResponsePlan, *, numbers: Numbers | None = None, allow: bytes = b"") -> None:
        self._numbers = numbers
        self._allow = allow
        self._passing = plan.passing
        self._head, self._fields = _head([field for field in plan.fields if field.when != "partial"])
        # A cache must not keep half an answer, however long it may keep a whole one.
        self._partial_head, self._partial_fields = _head(
            [field for field in plan.fields if field.when != "complete" and field.name not in CACHING]
        )

    def respond(self, result: Result, request: ClientRequest) -> Response:
        """The merged response; or the problem, or a service's own answer, when a failure ended the request."""
        if result.body is None or result.failure is not None:
            return self._failed(result, request)
        if result.is_complete:
            headers, fields = list(self._head), self._fields
        else:
            headers, fields = list(self._partial_head), self._partial_fields
        if fields:
            frame = request.frame
            headers += [(name, value) for name, values in fields for value in values(frame)]
        status = result.status
        if status >= _FIRST_ERROR:
            _add_demanded(headers, status, self._allow)
        headers += outcome_headers(result.outcomes, self._numbers, is_complete=result.is_complete)
        headers.append((b"x-request-id", request.id))
        return framed(status, headers, result.body, is_head=request.method == "HEAD")

    def _failed(self, result: Result, request: ClientRequest) -> Response:
        passed = passed_on(result, self._passing) if self._passing else None
        if passed is not None:
            status, body = passed.upstream_status, passed.body
            headers = [*head_of(passed, self._allow), (b"x-request-id", request.id)]
        else:
            problem = of_result(result, request.id, request.prefix, self._numbers, self._allow)
            status, headers, body = problem.status, problem.headers, problem.body
        headers += outcome_headers(result.outcomes, self._numbers, is_complete=result.is_complete)
        return framed(status, headers, body, is_head=request.method == "HEAD")


_Fields = tuple[tuple[bytes, Callable[[Frame], list[bytes]]], ...]


def _head(fields: Sequence[ResponseField]) -> tuple[HeaderPairs, _Fields]:
    """The fields that are the same in every response, and those that depend on the request. Without a content type of its own it is JSON."""
    fixed = [(field.name, field.value) for field in fields if field.value is not None]
    if not any(field.name == b"content-type" for field in fields):
        fixed.insert(0, _JSON_TYPE)
    return tuple(fixed), tuple((field.name, field.values) for field in fields if field.values is not None)


def _add_demanded(headers: HeaderList, status: int, allow: bytes) -> None:
    """Append the field that a status demands and the document does not give."""
    demanded = demanded_field(status, allow)
    if demanded is not None and not any(name == demanded[0] for name, _ in headers):
        headers.append(demanded)


def outcome_headers(outcomes: Sequence[Outcome], numbers: Numbers | None = None, *, is_complete: bool) -> HeaderList:
    """Gateway-Complete; Server-Timing if a step ran; Cache-Status if a step has a cache, and Age if it has given or got a stored answer. If the response is not complete: no permission to store it, Proxy-Status if a step
    failed."""
    timing = [(b"server-timing", server_timing(outcomes, numbers))] if outcomes else []
    if is_complete:
        headers = [_COMPLETE, *timing]
    else:
        headers = [_PARTIAL, *timing, _NO_STORE]
        failed = proxy_status(outcomes, numbers)
        if failed:
            headers.append((b"proxy-status", failed))
    cached = cache_status(outcomes, numbers)
    if cached:
        if has_stored(outcomes):
            headers.append((b"age", age(outcomes)))
        headers.append((b"cache-status", cached))
    return headers


def of_problem(problem: ProblemResponse, *, is_head: bool) -> Response:
    """The response that carries `problem`."""
    return framed(problem.status, list(problem.headers), problem.body, is_head=is_head)


def framed(status: int, headers: HeaderList, body: bytes, *, is_head: bool) -> Response:
    """The complete response. `headers`: without content-length, which this function appends to the list.

    HEAD has the header fields of GET and no body; 204, 205 and 304 have neither body nor content type (RFC 9110 sections 9.3.2, 15.3.5, 15.3.6, 15.4.5).
    """
    if status in BODYLESS:
        headers = [pair for pair in headers if pair[0] != b"content-type"]
        body = b""
    if status not in _WITHOUT_LENGTH:
        headers.append((b"content-length", str(len(body)).encode()))
    return Response(status, headers, b"" if is_head else body)


async def send_response(response: Response, send: Send) -> int:
    """Send the response. Returns the size of the body sent, in bytes."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body})
    return len(response.body)
