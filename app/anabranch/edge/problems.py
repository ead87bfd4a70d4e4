"""Problem documents (RFC 9457): the response for every failure. They contain no hosts, stack traces or secrets.

The text of a foreign exception is never included: anything but an error of ours becomes `internal_error` with a fixed sentence. Everywhere
`prefix` is the path below which the client sees the gateway ("" for none): the problem's `type` must lead to the page that explains it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from anabranch.engine.outcome import Outcome, Result
from anabranch.errors import AnabranchError, ComputeRefused, JournalError, RequestError, StepError, UpstreamStatus
from anabranch.plan.names import Numbers

# A year. A longer Retry-After from an upstream means never.
_LONGEST_WAIT_S: Final = 365 * 86400
MEDIA_TYPE: Final = b"application/problem+json"
MOST_ERRORS: Final = 50
# The scheme of a service that does not name one is unknown; of all that exist, browsers show no dialog for this one.
_CHALLENGE: Final = b'Bearer realm="gateway"'
_INTERNAL_DETAIL: Final = "unexpected error in the gateway; its log has the details under this request id"

HeaderList = list[tuple[bytes, bytes]]


class ProblemResponse(msgspec.Struct, frozen=True):
    """`headers`: all except `content-length`, which depends on how it is sent. `body`: JSON."""

    status: int
    headers: HeaderList
    body: bytes


def of_request(error: RequestError, request_id: bytes, prefix: str = "") -> ProblemResponse:
    """For a faulty request. Some errors have header fields of their own, such as 405 and 415."""
    fields = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    document = _document(type(error), error.status, error.detail, request_id, prefix, error.errors, extra=error.members)
    return _response(error.status, document, request_id, fields)


def of_result(result: Result, request_id: bytes, prefix: str = "", numbers: Numbers | None = None, allow: bytes = b"") -> ProblemResponse:
    """For a request that ended because a step failed. `result.failure` must be set. `numbers`: in place of names; None: the names. `allow`: what
    a 405 of a service allows if the service does not say it."""
    failure = result.failure
    assert failure is not None
    if isinstance(failure, ComputeRefused):
        return of_refusal(failure, request_id, prefix)
    step = next((outcome.step for outcome in result.outcomes if outcome.first_failure is failure), None)
    detail = failure.detail if numbers is None else failure.title
    if step is not None:
        detail = f"step '{step if numbers is None else numbers.steps[step]}': {detail}"
    failed = [outcome for outcome in result.outcomes if outcome.first_failure is not None]
    errors = [describe(outcome, numbers) for outcome in failed[:MOST_ERRORS]]
    if len(failed) > MOST_ERRORS:
        errors.append({"detail": f"and {len(failed) - MOST_ERRORS} more failed steps"})
    return _of_failure(failure, result.status, detail, errors, request_id, prefix, allow)


def of_refusal(refused: ComputeRefused, request_id: bytes, prefix: str = "") -> ProblemResponse:
    """For a request that a function of the operator refused. The text is the function's: it names nothing of the gateway's."""
    status = refused.status
    extra = {name: orjson.Fragment(text) for name, text in refused.members.items()}
    document = _document(type(refused), status, refused.detail, request_id, prefix, (), title=refused.public_title, extra=extra)
    fields = list(refused.fields)
    named = {name for name, _ in fields}
    wait = retry_after(refused, status)
    if wait is not None and b"retry-after" not in named:
        fields.append((b"retry-after", wait))
    if (demanded := demanded_field(status)) is not None and demanded[0] not in named:
        fields.append(demanded)
    return _response(status, document, request_id, fields)


def of_failure(failure: StepError | JournalError, request_id: bytes, prefix: str = "") -> ProblemResponse:
    """For a failed call outside any plan (a StepError that a route in Python did not catch), or a record that could not be written."""
    return _of_failure(failure, failure.status, failure.detail, [], request_id, prefix)


def internal(request_id: bytes, prefix: str = "") -> ProblemResponse:
    """For an unexpected exception: 500 with a fixed sentence."""
    return _response(500, _document(AnabranchError, 500, _INTERNAL_DETAIL, request_id, prefix, ()), request_id)


def of_status(status: int, title: str, detail: str, request_id: bytes, errors: Sequence[dict[str, Any]] = ()) -> ProblemResponse:
    """For a bare HTTP status raised by a route in Python. **Source:** RFC 9457 section 4.2.1 (`about:blank`)."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": request_id.decode()}
    if errors:
        document["errors"] = list(errors)
    return _response(status, orjson.dumps(document, default=str), request_id)


def describe(outcome: Outcome, numbers: Numbers | None = None) -> dict[str, object]:
    """The entry of a failed step in `errors`. Of a step of which elements failed, the failure is that of the first of them."""
    failure = outcome.first_failure
    assert failure is not None
    upstream = outcome.upstream or None
    # A detail may name steps: those that a step needs, or that a reference begins with.
    detail = failure.detail if numbers is None else failure.title
    return {
        "step": outcome.step if numbers is None else numbers.steps[outcome.step],
        "upstream": upstream if numbers is None or upstream is None else numbers.upstreams[upstream],
        "code": failure.code,
        "detail": f"{detail} ({outcome.shortfall})" if outcome.shortfall else detail,
        "attempts": outcome.attempts,
        "elapsed_ms": round(outcome.elapsed_s * 1000, 1),
    }


def retry_after(failure: StepError | JournalError, status: int) -> bytes | None:
    """Value of Retry-After: whole seconds, at least 1. A 503 always has one, other statuses when the failure has `retry_after_s`; else None."""
    if failure.retry_after_s is None:
        return b"1" if status == 503 else None
    return str(max(1, math.ceil(min(failure.retry_after_s, _LONGEST_WAIT_S)))).encode()


def _of_failure(
    failure: StepError | JournalError,
    status: int,
    detail: str,
    errors: list[dict[str, object]],
    request_id: bytes,
    prefix: str,
    allow: bytes = b"",
) -> ProblemResponse:
    fields = carried_fields(failure, status, allow)
    return _response(status, _document(type(failure), status, detail, request_id, prefix, errors), request_id, fields)


def carried_fields(failure: StepError | JournalError, status: int, allow: bytes = b"") -> HeaderList:
    """Retry-After, and the fields of a service's answer that its status demands, or such fields of ours. `allow`: as of `of_result`."""
    wait = retry_after(failure, status)
    fields = [] if wait is None else [(b"retry-after", wait)]
    if isinstance(failure, UpstreamStatus) and failure.upstream_status == status:
        fields += failure.fields
        if not failure.fields and (demanded := demanded_field(status, allow)) is not None:
            fields.append(demanded)
    return fields


def demanded_field(status: int, allow: bytes = b"") -> tuple[bytes, bytes] | None:
    """The field that a response with this status must have, for one whose maker has not set it; None when there is none.

    **Source:** RFC 9110 sections 15.5.2 and 15.5.6 (an empty `Allow` is valid, section 10.2.1).
    """
    if status == 401:
        return b"www-authenticate", _CHALLENGE
    return (b"allow", allow) if status == 405 else None


def _response(status: int, body: bytes, request_id: bytes, fields: HeaderList | None = None) -> ProblemResponse:
    return ProblemResponse(status, [(b"content-type", MEDIA_TYPE), *(fields or ()), (b"x-request-id", request_id)], body)


def _document(
    kind: type[AnabranchError],
    status: int,
    detail: str,
    request_id: bytes,
    prefix: str,
    errors: Sequence[dict[str, object]],
    *,
    title: str | None = None,
    extra: Mapping[str, object] | None = None,
) -> bytes:
    """`title`: in place of the one of the error's class. `extra`: further members; none of them is a standard one."""
    return orjson.dumps(
        {
            "type": f"{prefix}/problems/{kind.code}",
            "title": title or kind.title,
            "status": status,
            "detail": detail,
            "instance": request_id.decode(),
            **({"errors": errors} if errors else {}),
            **(extra or {}),
        },
        default=str,
    )
