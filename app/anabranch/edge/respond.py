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
from anabranch.plan.names import Numbers

_COMPLETE: Final = (b"gateway-complete", b"?1")
_PARTIAL: Final = (b"gateway-complete", b"?0")
_BODYLESS: Final = frozenset({204, 205})
_NO_STORE: Final = (b"cache-control", b"no-store")
_CACHING: Final = frozenset(
    {b"cache-control", b"cdn-cache-control", b"etag", b"expires", b"last-modified", b"pragma", b"surrogate-control"}
)
"""Fields by which caches decide what to keep (RFC 9111 section 5, RFC 9213, RFC 9110 section 8.8)."""


class Response(msgspec.Struct, gc=False):
    """A complete response. `headers`, `body`: exactly as sent."""

    status: int
    headers: HeaderList
    body: bytes


class Responder:
    """Builds the responses of one endpoint. Created once per plan, so that constant header fields are rendered only once.

    `numbers`: in place of names; None: the names. `allow`: the methods that the endpoint's path has besides this endpoint's.
    """

    __slots__ = ("_allow", "_head", "_numbers", "_partial_head")

    def __init__(self, plan: ResponsePlan, *, numbers: Numbers | None = None, allow: bytes = b"") -> None:
        self._numbers = numbers
        self._allow = allow
        has_type = any(name == b"content-type" for name, _ in plan.headers)
        self._head = plan.headers if has_type else ((b"content-type", b"application/json"), *plan.headers)
        # A cache must not keep half an answer, however long it may keep a whole one.
        self._partial_head = tuple(pair for pair in self._head if pair[0] not in _CACHING)

    def respond(self, result: Result, request: ClientRequest) -> Response:
        """The merged response, or the problem when a failure ended the request."""
        if result.body is None or result.failure is not None:
            problem = of_result(result, request.id, request.prefix, self._numbers, self._allow)
            headers, body, status = problem.headers, problem.body, problem.status
            headers += outcome_headers(result.outcomes, self._numbers, is_complete=result.is_complete)
        else:
            headers, body, status = list(self._head if result.is_complete else self._partial_head), result.body, result.status
            headers += outcome_headers(result.outcomes, self._numbers, is_complete=result.is_complete)
            headers.append((b"x-request-id", request.id))
        return framed(status, headers, body, is_head=request.method == "HEAD")


def outcome_headers(outcomes: Sequence[Outcome], numbers: Numbers | None = None, *, is_complete: bool) -> HeaderList:
    """Gateway-Complete; Server-Timing if a step ran. If the response is not complete: no permission to store it, Proxy-Status if a step failed,
    Age and Cache-Status if a step has a stale answer."""
    timing = [(b"server-timing", server_timing(outcomes, numbers))] if outcomes else []
    if is_complete:
        return [_COMPLETE, *timing]
    headers = [_PARTIAL, *timing, _NO_STORE]
    failed = proxy_status(outcomes, numbers)
    if failed:
        headers.append((b"proxy-status", failed))
    stale = cache_status(outcomes, numbers)
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
