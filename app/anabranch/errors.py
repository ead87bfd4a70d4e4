"""Every error that Anabranch raises on purpose, split by who has to react.

    AnabranchError
     +-- ConfigError            the operator: a document or a setting
     +-- RequestError           the client: what it sent, or when
     +-- JournalError           the response may not be given, because its record is not on the disk
     |    +-- JournalFull           no room in the queue before it
     +-- StepError              a step failed; carried as an outcome, raised only inside the layers of one step
          +-- UpstreamError     an exchange with a service
          |    +-- ConnectError            nothing was sent
          |    |    +-- ResolveError       the name has no address
          |    |    +-- ConnectTimeout     no connection within `connect_timeout`
          |    |    +-- TLSError           the certificate or handshake was refused
          |    +-- UpstreamTimeout         the attempt's timeout passed
          |    +-- ConnectionLost          closed or reset before the response was whole
          |    +-- ProtocolError           not HTTP, or HTTP that cannot be trusted
          |    +-- ResponseTooLarge        more than `max_response`
          |    +-- InvalidJSON             the body is not JSON
          |    +-- UpstreamStatus          an answer that is not 2xx
          +-- RejectedError     we did not even try
          |    +-- QueueFull               the bulkhead and its queue are full
          |    +-- QueueTimeout            no place in the bulkhead within `queue_timeout`
          |    +-- BreakerOpen             the breaker is open
          |    +-- DeadlineExceeded        no time was left to begin
          |    +-- ComputePoolFull         no worker was free for a hook, and none will be soon
          |    +-- ComputePoolDown         the workers themselves are away
          +-- SkippedError      an input was not there
          |    +-- MissingReference        a reference found nothing
          |    +-- DependencyFailed        the step it needs failed
          +-- ShapeError        the value cannot be merged as the document asks
          +-- NothingAnswered   no visible step has a value
          +-- ComputeError      a hook
               +-- ComputeFailed           it raised
               +-- ComputeTimeout          it was still running when its time was over
               +-- ComputeInvalidInput     the arguments do not fit its annotations
               +-- ComputeInvalidResult    what it returned does not fit its annotation, or is not JSON
               +-- WorkerLost              its worker ended

Each class has a stable `code`, the `status` that a required step's failure gives the response, the RFC 9209 error type for
`Proxy-Status`, and a page under /problems/CODE. Nothing here holds a host, a secret or a stack in its message: messages reach clients.
"""

from dataclasses import dataclass
from typing import ClassVar


class AnabranchError(Exception):
    """The root. `code`: stable snake_case name. `status`: HTTP status when it decides a response. `title`: a few words."""

    code: ClassVar[str] = "internal_error"
    status: int = 500
    title: ClassVar[str] = "Something went wrong inside the gateway"


# ------------------------------------------------------------------------------------------------------------ operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a document: where (`file`, 1-based `line` and `column`, `path` into the document), what, and what to do.

    `value`: the offending value as text, None when there is none or when it may hold a secret. `hint`: "" when there is none.
    `is_warning`: the document works, but not as its writer would expect.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    value: str | None = None
    hint: str = ""
    is_warning: bool = False

    def __str__(self) -> str:
        value = "" if self.value is None else f" (found {self.value})"
        hint = f"; {self.hint}" if self.hint else ""
        kind = "warning: " if self.is_warning else ""
        return f"{self.file}:{self.line}:{self.column}: {kind}{self.path}: {self.message}{value}{hint}"


class ConfigError(AnabranchError):
    """The document or a setting is wrong. `problems`: every one that was found, in order of file and line."""

    code = "config_error"
    title = "The gateway document is not usable"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class MissingExtraError(AnabranchError):
    """A feature needs an optional library. Says which extra of this package brings it."""

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'anabranch[{extra}]'")


# -------------------------------------------------------------------------------------------------------------- client


class RequestError(AnabranchError):
    """What the client sent cannot be served. `errors`: one dict for each fault, as they stand in the problem document."""

    code = "bad_request"
    status = 400
    title = "The request cannot be understood"

    def __init__(self, detail: str, *, errors: list[dict[str, object]] | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or {}


class MalformedRequest(RequestError):
    """What came is no HTTP/1.1: decided by the server before there is a request."""

    code = "malformed_request"
    title = "The request is not valid HTTP"


class HeadTooLarge(RequestError):
    """As above, by its size."""

    code = "head_too_large"
    status = 431
    title = "The head of the request is too large"


class HeadTimeout(RequestError):
    """As above, by its time."""

    code = "head_timeout"
    status = 408
    title = "The head of the request did not arrive in time"


class InvalidParameters(RequestError):
    code = "invalid_parameters"
    title = "Parameters are missing or wrong"


class InvalidBody(RequestError):
    code = "invalid_body"
    title = "The request body is not what this endpoint takes"


class BodyTooLarge(RequestError):
    code = "body_too_large"
    status = 413
    title = "The request body is too large"


class BodyTimeout(RequestError):
    code = "body_timeout"
    status = 408
    title = "The request body did not arrive in time"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415
    title = "The request body must be JSON"


class NotFound(RequestError):
    code = "not_found"
    status = 404
    title = "There is no such endpoint"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    status = 405
    title = "The endpoint does not have this method"


class Overloaded(RequestError):
    """Nothing is wrong with the request; there are too many of them. Decided before its body is read."""

    code = "overloaded"
    status = 503
    title = "The gateway has as many requests as it can take"


# --------------------------------------------------------------------------------------------------------------- steps


class StepError(AnabranchError):
    """Why a step has no value. `is_timeout`: counts as "a timeout" when nothing at all could be answered.

    `may_be_processed`: the upstream may have acted on the request (so only an idempotent call may be tried again).
    `retry_after_s`: seconds after which it makes sense to come again; None when unknown.
    `proxy_error`: error type of RFC 9209 section 2.3, "" where none fits.
    """

    code = "step_failed"
    status: int = 502
    proxy_error: ClassVar[str] = ""
    is_timeout: ClassVar[bool] = False

    def __init__(self, detail: str, *, may_be_processed: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.may_be_processed = may_be_processed
        self.retry_after_s = retry_after_s


class UpstreamError(StepError):
    code = "upstream_error"
    title = "A service that this response needs failed"


class ConnectError(UpstreamError):
    code = "connect_failed"
    title = "A service could not be reached"
    proxy_error = "connection_refused"


class ResolveError(ConnectError):
    code = "resolve_failed"
    title = "A service's name has no address"
    proxy_error = "dns_error"


class ConnectTimeout(ConnectError):
    code = "connect_timeout"
    status = 504
    title = "A service did not accept a connection in time"
    proxy_error = "connection_timeout"
    is_timeout = True


class TLSError(ConnectError):
    code = "tls_failed"
    title = "A service could not prove who it is"
    proxy_error = "tls_certificate_error"


class UpstreamTimeout(UpstreamError):
    code = "timeout"
    status = 504
    title = "A service did not answer in time"
    proxy_error = "http_response_timeout"
    is_timeout = True


class ConnectionLost(UpstreamError):
    code = "connection_lost"
    title = "A service closed the connection before its answer was whole"
    proxy_error = "http_response_incomplete"


class ProtocolError(UpstreamError):
    code = "protocol_error"
    title = "A service sent something that is not valid HTTP"
    proxy_error = "http_protocol_error"


class ResponseTooLarge(UpstreamError):
    code = "response_too_large"
    title = "A service answered with more than the gateway accepts"
    proxy_error = "http_response_body_size"


class InvalidJSON(UpstreamError):
    code = "invalid_json"
    title = "A service answered with something that is not JSON"
    proxy_error = "http_protocol_error"


class UpstreamStatus(UpstreamError):
    """An answer that is not 2xx. 4xx goes through to the client when the step is required; anything else is 502."""

    code = "upstream_status"
    title = "A service answered with an error"

    def __init__(self, upstream_status: int, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"the service answered {upstream_status}", may_be_processed=True, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.status = upstream_status if 400 <= upstream_status < 500 else 502


class RejectedError(StepError):
    status = 503
    proxy_error = "connection_limit_reached"


class QueueFull(RejectedError):
    code = "queue_full"
    title = "Too many requests wait for a service"


class QueueTimeout(RejectedError):
    code = "queue_timeout"
    title = "A service was too busy for too long"


class BreakerOpen(RejectedError):
    code = "breaker_open"
    title = "A service is left alone until it recovers"
    proxy_error = "destination_unavailable"


class DeadlineExceeded(RejectedError):
    code = "deadline_exceeded"
    status = 504
    title = "The time for the whole request ran out"
    proxy_error = "http_response_timeout"
    is_timeout = True


class SkippedError(StepError):
    code = "skipped"
    title = "A step had nothing to work on"


class MissingReference(SkippedError):
    code = "missing_reference"
    title = "A value that a step needs was not there"


class DependencyFailed(SkippedError):
    code = "dependency_failed"
    title = "A step that another step needs failed"


class ShapeError(StepError):
    code = "not_mergeable"
    title = "A service's answer cannot be merged as the document asks"


class NothingAnswered(StepError):
    """Every step that the response would show has failed. `status`: 504 when time ran out for all of them, else 502."""

    code = "nothing_answered"
    title = "No service that this response is made of answered"

    def __init__(self, *, is_timeout: bool) -> None:
        super().__init__("none of the services that this response is made of answered")
        self.status = 504 if is_timeout else 502


class ComputePoolFull(RejectedError):
    code = "compute_pool_full"
    title = "Too many computations wait for a worker"


class ComputePoolDown(RejectedError):
    code = "compute_pool_down"
    title = "The workers of a computation are not there"
    proxy_error = "destination_unavailable"


class ComputeError(StepError):
    """A hook was started and gave no value. What the hook itself said is in the log, never here."""

    code = "compute_error"
    status = 500
    title = "A computation failed"
    proxy_error = "proxy_internal_error"


class ComputeFailed(ComputeError):
    code = "compute_failed"


class ComputeTimeout(ComputeError):
    code = "compute_timeout"
    status = 504
    title = "A computation did not end in time"
    proxy_error = "http_response_timeout"
    is_timeout = True


class ComputeInvalidInput(ComputeError):
    """The arguments came from a request or a service, so it is an answer from beyond that cannot be used."""

    code = "compute_invalid_input"
    status = 502
    title = "A computation was given something that it does not take"


class ComputeInvalidResult(ComputeError):
    code = "compute_invalid_result"
    title = "A computation returned something that cannot be used"


class WorkerLost(ComputeError):
    code = "compute_worker_lost"
    title = "A computation ended its worker"


# ------------------------------------------------------------------------------------------------------------- journal


class JournalError(AnabranchError):
    """The record that an endpoint owes before it answers could not be written (in time). The services were called all the same.

    `detail`: a sentence for the client: no paths. `retry_after_s`: seconds after which it makes sense to come again.
    """

    code = "journal_unavailable"
    status = 503
    title = "The response could not be recorded"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class JournalFull(JournalError):
    """The queue before the journal has no room."""
