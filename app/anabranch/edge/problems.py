"""Problem documents (RFC 9457): the response for every failure. They contain no hosts, stack traces or secrets.

The text of a foreign exception is never included: anything but an error of ours becomes `internal_error` with a fixed sentence.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from anabranch.engine.outcome import Outcome, Result
from anabranch.errors import AnabranchError, JournalError, RequestError, StepError

# A year. A longer Retry-After from an upstream means never.
_LONGEST_WAIT_S: Final = 365 * 86400
MEDIA_TYPE: Final = b"application/problem+json"
_INTERNAL_DETAIL: Final = "unexpected error in the gateway; its log has the details under this request id"

HeaderList = list[tuple[bytes, bytes]]


class ProblemResponse(msgspec.Struct, frozen=True):
    """`headers`: all except `content-length` and `x-request-id`, which the sender adds. `body`: JSON."""

    status: int
    headers: HeaderList
    body: bytes


def of_request(error: RequestError, request_id: str) -> ProblemResponse:
    """For a faulty request. 405 and 415 have header fields of their own."""
    headers = [(b"content-type", MEDIA_TYPE), *((name.encode(), value.encode()) for name, value in error.headers.items())]
    body = _document(type(error), error.status, error.detail, request_id, error.errors)
    return ProblemResponse(error.status, headers, body)


def of_result(result: Result, request_id: str) -> ProblemResponse:
    """For a request that ended because a step failed. `result.failure` must be set."""
    failure = result.failure
    assert failure is not None
    step = next((outcome.step for outcome in result.outcomes if outcome.failure is failure), None)
    detail = failure.detail if step is None else f"step '{step}': {failure.detail}"
    errors = [describe(outcome) for outcome in result.outcomes if outcome.failure is not None]
    return _of_failure(failure, result.status, detail, errors, request_id)


def of_failure(failure: StepError, request_id: str) -> ProblemResponse:
    """For a failed call outside any plan: a StepError that a route in Python did not catch."""
    return _of_failure(failure, failure.status, failure.detail, [], request_id)


def of_journal(error: JournalError, request_id: str) -> ProblemResponse:
    """For a response that must not be sent because its record could not be written."""
    return _of_failure(error, error.status, error.detail, [], request_id)


def internal(request_id: str) -> ProblemResponse:
    """For an unexpected exception: 500 with a fixed sentence."""
    return ProblemResponse(500, [(b"content-type", MEDIA_TYPE)], _document(AnabranchError, 500, _INTERNAL_DETAIL, request_id, ()))


def of_status(status: int, title: str, detail: str, request_id: str, errors: Sequence[dict[str, Any]] = ()) -> ProblemResponse:
    """For a bare HTTP status raised by a route in Python. **Source:** RFC 9457 section 4.2.1 (`about:blank`)."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": request_id}
    if errors:
        document["errors"] = list(errors)
    return ProblemResponse(status, [(b"content-type", MEDIA_TYPE)], orjson.dumps(document, default=str))


def describe(outcome: Outcome) -> dict[str, object]:
    """The entry of a failed step in `errors`."""
    failure = outcome.failure
    assert failure is not None
    return {
        "step": outcome.step,
        "upstream": outcome.upstream or None,
        "code": failure.code,
        "detail": failure.detail,
        "attempts": outcome.attempts,
        "elapsed_ms": round(outcome.elapsed_s * 1000, 1),
    }


def retry_after(failure: StepError | JournalError, status: int) -> bytes | None:
    """Value of Retry-After: whole seconds, at least 1. A 503 always has one, other statuses when the failure has `retry_after_s`; else None."""
    if failure.retry_after_s is None:
        return b"1" if status == 503 else None
    return str(max(1, math.ceil(min(failure.retry_after_s, _LONGEST_WAIT_S)))).encode()


def _of_failure(
    failure: StepError | JournalError, status: int, detail: str, errors: list[dict[str, object]], request_id: str
) -> ProblemResponse:
    headers = [(b"content-type", MEDIA_TYPE)]
    wait = retry_after(failure, status)
    if wait is not None:
        headers.append((b"retry-after", wait))
    return ProblemResponse(status, headers, _document(type(failure), status, detail, request_id, errors))


def _document(kind: type[AnabranchError], status: int, detail: str, request_id: str, errors: Sequence[dict[str, object]]) -> bytes:
    return orjson.dumps(
        {
            "type": f"/problems/{kind.code}",
            "title": kind.title,
            "status": status,
            "detail": detail,
            "instance": request_id,
            **({"errors": errors} if errors else {}),
        },
        default=str,
    )
