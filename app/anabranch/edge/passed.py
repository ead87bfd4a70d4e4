"""The response of a request that a service's own failure ends, where the document passes it on (`errors: pass`)."""

from collections.abc import Container
from typing import Final

from anabranch.core.field import is_safe_value
from anabranch.edge.problems import HeaderList, carried_fields
from anabranch.engine.outcome import Result
from anabranch.errors import UpstreamStatus

_UNKNOWN_TYPE: Final = b"application/octet-stream"
"""Of a body whose service does not say what it is: nobody shall guess (RFC 9110 section 8.3)."""


def passed_on(result: Result, passing: Container[str]) -> UpstreamStatus | None:
    """The failure whose answer the client gets; None when the response is a problem. `passing`: names of the steps that pass their failures on.

    No answer is passed on that is no failure (a redirect), or that is about the gateway's own connection or credentials.
    """
    failure = result.failure
    if not isinstance(failure, UpstreamStatus) or not failure.may_pass:
        return None
    step = next((outcome.step for outcome in result.outcomes if outcome.failure is failure), "")
    return failure if step in passing else None


def head_of(failure: UpstreamStatus, allow: bytes) -> HeaderList:
    """The service's own header fields that the client gets: the content type, and what the status demands. `allow`: as of `problems.of_result`."""
    headers: HeaderList = []
    if failure.body:
        given = failure.content_type
        headers.append((b"content-type", given if given and is_safe_value(given) else _UNKNOWN_TYPE))
    return headers + carried_fields(failure, failure.upstream_status, allow)
