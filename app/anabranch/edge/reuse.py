"""Says of the responses of an endpoint how long clients and caches in front may keep them: `Cache-Control` and `ETag`.

What is left of the freshness of its parts is the freshness of a merged response. Its `Age` is that of its oldest stored part, and what a cache takes off for it
(RFC 9111 section 4.2) is added to `max-age`. Where the document sets `max-age`, the response counts as new, and has no `Age`.

**Source:** RFC 9110 section 8.8.3 (`ETag`); RFC 9111 sections 4.2 and 5.2.2; RFC 5861; RFC 8246.
"""

from collections.abc import Iterator
from hashlib import blake2b
from time import monotonic, time
from typing import Final

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
_MOST_S: Final = 2**31
_SAYS_NOTHING: Final = Rule()
_ANY_REQUEST: Final = Request("GET", "/")


class ReusableResponder(Responder):
    """A responder whose complete responses of status 200 may be kept."""

    __slots__ = ("_reuse",)

    def __init__(self, plan: ResponsePlan, reuse: ReusePlan, *, numbers: Numbers | None = None, allow: bytes = b"") -> None:
        super().__init__(plan, numbers=numbers, allow=allow)
        self._reuse = reuse

    def respond(self, result: Result, request: ClientRequest) -> Response:
        response = super().respond(result, request)
        if not _may_be_kept(result):
            return response
        headers = response.headers
        if self._reuse.has_control:
            headers.append((b"cache-control", control_of(self._reuse, result, request)))
            if self._reuse.max_age_s is not None:
                response.headers = headers = [pair for pair in headers if pair[0] != b"age"]
        if result.body is not None and not any(name == b"etag" for name, _ in headers):
            headers.append((b"etag", tag_of(result.body)))
        return response


def _may_be_kept(result: Result) -> bool:
    return result.status == _KEPT and result.is_complete and result.failure is None


def explained(plan: ReusePlan | None, result: Result, request: ClientRequest) -> str | None:
    """The Cache-Control that the response would have; None where the gateway says nothing of it."""
    return control_of(plan, result, request).decode() if plan is not None and plan.has_control and _may_be_kept(result) else None


def tag_of(body: bytes) -> bytes:
    """The strong entity tag of a representation: a digest of its bytes. The same bytes have the same one in every gateway."""
    return b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode()


def control_of(plan: ReusePlan, result: Result, request: ClientRequest) -> bytes:
    """The value of Cache-Control of a complete response."""
    is_private, is_no_store, fresh_s = bool(plan.private_because), False, 0.0
    if plan.max_age_s is None or not (is_private or plan.is_for_all):
        used = list(_used(plan, result, monotonic() - request.arrived))
        is_no_store = any(use.is_no_store for use in used)
        is_private = is_private or (not plan.is_for_all and any(use.is_private for use in used))
        fresh_s = min((use.fresh_s for use in used), default=0.0)
    if is_no_store and plan.max_age_s is None:
        return b"no-store"
    # What services do not want to be stored, and the document does, is at least nobody else's.
    is_private = is_private or (is_no_store and not plan.is_for_all)
    shared_s = None if is_private else plan.shared_max_age_s
    lifetime_s = int(max(min(fresh_s, _MOST_S), 0.0))
    if plan.max_age_s is not None:
        lifetime_s = plan.max_age_s
    elif lifetime_s:
        lifetime_s += int(age(result.outcomes))
    words = ["private"] if is_private else ["public"] if plan.is_public else []
    if plan.max_age_s is None and not lifetime_s and shared_s is None:
        return ", ".join([*words, "no-cache"]).encode()
    words.append(f"max-age={lifetime_s}")
    if shared_s is not None:
        words.append(f"s-maxage={shared_s}")
    return ", ".join([*words, *plan.windows]).encode()


def _used(plan: ReusePlan, result: Result, elapsed_s: float) -> Iterator[CacheUse]:
    """What is known of each answer that went into the response, as of now: of what answered, where one step stands in for another. Values that were computed are as
    fresh as what they were computed from. `elapsed_s`: since the request began."""
    for outcome in result.outcomes:
        if outcome.step in plan.stand_ins:
            continue
        answered = outcome.answered
        for call in answered.calls or (answered,):
            if call.status is not None:
                yield _use(call, elapsed_s)


def _use(call: Outcome, elapsed_s: float) -> CacheUse:
    known = call.cache_use
    if known is None:
        now = time()
        answer = Answer(call.status or 0, call.headers or [], b"")
        # At the latest it was generated when it was asked for (RFC 9111 section 4.2.3).
        asked_s = now - max(elapsed_s - call.started_s, 0.0)
        said = judge(_ANY_REQUEST, answer, _SAYS_NOTHING, success=ANY_2XX, requested_s=asked_s, received_s=now)
        return CacheUse("", said.fresh_until_s - now, 0.0, said.is_private, said.is_no_store)
    since_s = max(elapsed_s - call.started_s - call.elapsed_s, 0.0)
    return CacheUse("", known.fresh_s - since_s, 0.0, known.is_private, known.is_no_store)
