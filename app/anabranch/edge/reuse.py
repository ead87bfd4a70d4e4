"""Says of the responses of an endpoint how long clients and caches in front may keep them: `Cache-Control` and `ETag`.

What is left of the freshness of its parts is the freshness of a merged response. Its `Age` is that of its oldest stored part, and what a cache takes off for it
(RFC 9111 section 4.2) is added to `max-age`. Where the document sets `max-age`, the response counts as new, and has no `Age`.

**Source:** RFC 9110 section 8.8.3 (`ETag`); RFC 9111 sections 4.2 and 5.2.2; RFC 5861; RFC 8246.
"""

from collections.abc import Sequence
from hashlib import sha256
from math import inf
from time import monotonic, time
from typing import Final

from anabranch.cache.fields import MOST_S
from anabranch.cache.judge import judge
from anabranch.cache.rule import Rule
from anabranch.core.cached import CacheUse
from anabranch.core.exchange import ANY_2XX, Answer, Request
from anabranch.edge.fields import age
from anabranch.edge.respond import Responder, Response
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.request import ClientRequest
from anabranch.plan.model import ResponsePlan
from anabranch.plan.names import Numbers
from anabranch.plan.reuse import ReusePlan

_KEPT: Final = 200
_TAG_DIGITS: Final = 24
_SAYS_NOTHING: Final = Rule()
_ANY_REQUEST: Final = Request("GET", "/")


class ReusableResponder(Responder):
    """A responder whose complete responses of status 200 may be kept."""

    __slots__ = ("_has_own_tag", "_reuse")

    def __init__(self, plan: ResponsePlan, reuse: ReusePlan, *, numbers: Numbers | None = None, allow: bytes = b"") -> None:
        super().__init__(plan, numbers=numbers, allow=allow)
        self._reuse = reuse
        self._has_own_tag = any(field.name == b"etag" for field in plan.fields)

    def respond(self, result: Result, request: ClientRequest) -> Response:
        response = super().respond(result, request)
        body = result.body
        if body is None or not _may_be_kept(result):
            return response
        headers = response.headers
        if self._reuse.has_control:
            headers.append((b"cache-control", control_of(self._reuse, result, request)))
            if self._reuse.max_age_s is not None:
                response.headers = headers = [pair for pair in headers if pair[0] != b"age"]
        if not self._has_own_tag or not any(name == b"etag" for name, _ in headers):
            headers.append((b"etag", tag_of(body)))
        return response


def _may_be_kept(result: Result) -> bool:
    return result.status == _KEPT and result.is_complete and result.failure is None


def explained(plan: ReusePlan | None, result: Result, request: ClientRequest) -> str | None:
    """The Cache-Control that the response would have; None where the gateway says nothing of it."""
    return control_of(plan, result, request).decode() if plan is not None and plan.has_control and _may_be_kept(result) else None


def tag_of(body: bytes) -> bytes:
    """The strong entity tag of a representation: a digest of its bytes. The same bytes have the same one in every gateway."""
    return f'"{sha256(body).hexdigest()[:_TAG_DIGITS]}"'.encode()


def control_of(plan: ReusePlan, result: Result, request: ClientRequest) -> bytes:
    """The value of Cache-Control of a complete response."""
    if plan.fixed is not None:
        return plan.fixed
    parts = _together(plan, result.outcomes, monotonic() - request.arrived)
    if parts.is_no_store and plan.max_age_s is None:
        return b"no-store"
    # What services do not want to be stored, and the document does, is at least nobody else's.
    is_private = plan.is_private or (not plan.is_for_all and (parts.is_private or parts.is_no_store))
    fresh_s = 0 if parts.fresh_s <= 0 else int(min(parts.fresh_s, MOST_S))
    return plan.control(fresh_s + int(age(result.outcomes)) if fresh_s else 0, is_private=is_private)


def _together(plan: ReusePlan, outcomes: Sequence[Outcome], elapsed_s: float) -> CacheUse:
    """What all answers that went into the response have in common, as of now: of what answered, where one step stands in for another. Values that were computed are as fresh as
    what they were computed from. `elapsed_s`: since the request began."""
    fresh_s, is_private, is_no_store = inf, False, False
    for outcome in outcomes:
        if outcome.step in plan.stand_ins:
            continue
        answered = outcome if outcome.stand_in is None else outcome.answered
        for call in answered.calls or (answered,):
            if call.status is None:
                continue
            use = call.cache_use or _said(call, elapsed_s)
            left_s = use.fresh_s - max(elapsed_s - call.started_s - call.elapsed_s, 0.0)
            fresh_s = min(fresh_s, left_s)
            is_private = is_private or use.is_private
            is_no_store = is_no_store or use.is_no_store
    return CacheUse("", 0.0 if fresh_s == inf else fresh_s, 0.0, is_private, is_no_store)


def _said(call: Outcome, elapsed_s: float) -> CacheUse:
    """What the service says of an answer that no cache has looked at, as of its arrival. It was generated when it was asked for, at the latest (RFC 9111
    section 4.2.3)."""
    asked_s = time() - max(elapsed_s - call.started_s, 0.0)
    received_s = asked_s + call.elapsed_s
    answer = Answer(call.status or 0, call.headers or [], b"")
    said = judge(_ANY_REQUEST, answer, _SAYS_NOTHING, success=ANY_2XX, requested_s=asked_s, received_s=received_s)
    return CacheUse("", said.fresh_until_s - received_s, 0.0, said.is_private, said.is_no_store)
