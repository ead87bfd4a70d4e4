"""Builds the response from a request's result and sends it. Sets header fields and framing; bodies come from the plan and `problems`."""

from collections.abc import Sequence
from typing import Final

import msgspec
from starlette.types import Send

from anabranch.edge.fields import age, cache_status, proxy_status, server_timing
from anabranch.edge.problems import HeaderList, ProblemResponse, of_result
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.request import ClientRequest
from anabranch.plan.model import ResponsePlan

_COMPLETE: Final = (b"gateway-complete", b"?1")
_PARTIAL: Final = (b"gateway-complete", b"?0")
_BODYLESS: Final = frozenset({204, 205})
_OWN: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"connection", b"gateway-complete", b"server-timing", b"proxy-status", b"x-request-id"}
)


class Response(msgspec.Struct, gc=False):
    """A complete response. `headers`, `body`: exactly as sent."""

    status: int
    headers: HeaderList
    body: bytes


class Responder:
    """Builds the responses of one endpoint. Created once per plan, so that constant header fields are rendered only once."""

    __slots__ = ("_head",)

    def __init__(self, plan: ResponsePlan) -> None:
        fixed = tuple((name, value) for name, value in plan.headers if name not in _OWN)
        has_type = any(name == b"content-type" for name, _ in fixed)
        self._head = fixed if has_type else ((b"content-type", b"application/json"), *fixed)

    def respond(self, result: Result, request: ClientRequest) -> Response:
        """The merged response, or the problem when a failure ended the request."""
        if result.body is None or result.failure is not None:
            problem = of_result(result, request.id, request.prefix)
            headers, body, status = problem.headers, problem.body, problem.status
            headers += outcome_headers(result.outcomes, is_complete=result.is_complete)
        else:
            headers, body, status = list(self._head), result.body, result.status
            headers += outcome_headers(result.outcomes, is_complete=result.is_complete)
            headers.append((b"x-request-id", request.id))
        return framed(status, headers, body, is_head=request.method == "HEAD")


def outcome_headers(outcomes: Sequence[Outcome], *, is_complete: bool) -> HeaderList:
    """Gateway-Complete; Server-Timing if a step ran; Proxy-Status if a step failed; Age and Cache-Status if a step has a stale answer."""
    headers = [_COMPLETE if is_complete else _PARTIAL]
    if outcomes:
        headers.append((b"server-timing", server_timing(outcomes)))
    if is_complete:
        return headers
    failed = proxy_status(outcomes)
    if failed:
        headers.append((b"proxy-status", failed))
    stale = cache_status(outcomes)
    if stale:
        headers += [(b"age", age(outcomes)), (b"cache-status", stale)]
    return headers


def of_problem(problem: ProblemResponse, *, is_head: bool) -> Response:
    """The response that carries `problem`."""
    return framed(problem.status, list(problem.headers), problem.body, is_head=is_head)


def framed(status: int, headers: HeaderList, body: bytes, *, is_head: bool) -> Response:
    """The complete response. `headers`: without content-length, which this function appends to the list.

    HEAD has the header fields of GET and no body; 204 and 205 have neither body nor content type (RFC 9110 sections 9.3.2, 15.3.5, 15.3.6).
    """
    if status in _BODYLESS:
        headers = [pair for pair in headers if pair[0] != b"content-type"]
        body = b""
    if status != 204:
        headers.append((b"content-length", str(len(body)).encode()))
    return Response(status, headers, b"" if is_head else body)


async def send_response(response: Response, send: Send) -> int:
    """Send the response. Returns the size of the body sent, in bytes."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body})
    return len(response.body)
