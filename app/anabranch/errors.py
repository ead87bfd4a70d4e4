"""Every error that Anabranch raises on purpose, split by who has to react.

    AnabranchError
     +-- ConfigError            the operator: a document or a setting
     +-- StartError             the operator: a part of the process cannot start
     +-- RequestError           the client: the request is invalid, too late, or one too many
     |    +-- RefusedRequest         no request at all: the connection is closed
     +-- JournalError           the response must not be sent, because its record is not on disk
     |    +-- JournalFull           the journal's queue is full
     +-- StepError              a step failed; carried as an outcome, raised only inside the layers of one step
          +-- UpstreamError     an exchange with an upstream failed
          |    +-- ConnectError            no usable connection
          |    |    +-- ResolveError       the host name has no address
          |    |    +-- ConnectTimeout     no connection within `connect_timeout`
          |    |    +-- TLSError           the certificate or the handshake was rejected
          |    +-- UpstreamTimeout         the attempt's timeout expired
          |    +-- ConnectionLost          closed or reset before the response was complete
          |    +-- ProtocolError           not HTTP, or HTTP that cannot be trusted
          |    +-- ResponseTooLarge        more than `max_response`
          |    +-- InvalidJSON             the body is not JSON
          |    +-- InvalidFormat           the body is not what `decode` says
          |    +-- InvalidCharset          the body is not text in the charset that it declares
          |    +-- UpstreamStatus          a response that is not 2xx
          +-- RejectedError     rejected before anything was sent or started
          |    +-- QueueFull               the bulkhead and its queue are full
          |    +-- QueueTimeout            no free bulkhead slot within `queue_timeout`
          |    +-- UpstreamPaced           no turn before the deadline, by the upstream's `rate`
          |    +-- BreakerOpen             the circuit breaker is open
          |    +-- DeadlineExceeded        no time was left to start
          |    +-- ComputePoolFull         no worker is free for the hook, and the queue is full or the wait too long
          |    +-- ComputePoolDown         the workers are unavailable
          +-- SkippedError      an input is missing
          |    +-- MissingReference        a reference has no value
          |    +-- DependencyFailed        a step that this step needs failed
          |    +-- NoClientToken           the call passes on the token of a client, and there is none
          +-- ConditionFailed   a condition could not be evaluated
          +-- InvalidStatus     the status that the document refers to is none that a response can have
          +-- UnencodableBody   the body of a call cannot be written in the format of its `encode`
          +-- ShapeError        the value cannot be merged as the document requires
          +-- ProcessingTimeout the deadline passed while the gateway read or merged large answers
          +-- NothingAnswered   no visible step has a value
          +-- ComputeError      a hook gave no usable value
               +-- ComputeRefused          the hook raised `Refused`
               +-- ComputeFailed           the hook raised anything else
               +-- ComputeTimeout          the hook was still running at its deadline
               +-- ComputeInvalidInput     the arguments do not fit the hook's annotations
               +-- ComputeInvalidResult    the result does not fit the hook's annotation, or is not JSON
               +-- WorkerLost              the hook's worker process ended

Each class has a stable `code`, the `status` of the response when a required step fails with it, the RFC 9209 error type for
`Proxy-Status`, and a page under /problems/CODE. Messages reach clients, so they never contain a host, a secret or a stack trace.
"""

from dataclasses import dataclass
from typing import ClassVar, Final


class AnabranchError(Exception):
    """The root. `code`: stable snake_case name. `status`: HTTP status of a response that ends with this error. `title`: a few words."""

    code: ClassVar[str] = "internal_error"
    status: int = 500
    title: ClassVar[str] = "Internal gateway error"


# ------------------------------------------------------------------------------------------------------------ operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a document or in the settings: its position (`file`, 1-based `line` and `column`, `path` into the document), a message and a
    hint. `line` 0: it has no line, as a setting from the environment.

    `value`: the offending value as text; None when there is none or when it may contain a secret. `hint`: how to fix it, or "".
    `is_warning`: the document is usable, but probably does not do what its author expects.
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
        at = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        return f"{at}: {kind}{path}{self.message}{value}{hint}"


class ConfigError(AnabranchError):
    """The document or a setting is invalid. `problems`: all that were found, in order of file and line."""

    code = "config_error"
    title = "Invalid gateway document or setting"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class StartError(AnabranchError):
    """A part of the process cannot start: its port is taken, or its worker processes end at once. The message is a sentence for the operator."""

    code = "cannot_start"
    title = "A part of the gateway cannot start"


class MissingExtraError(AnabranchError):
    """A feature needs an optional library. The message names the extra of this package that installs it."""

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'anabranch[{extra}]'")


# -------------------------------------------------------------------------------------------------------------- client


class RequestError(AnabranchError):
    """The client's request cannot be served. `errors`: one dict for each fault, as in the problem document. `headers`: added to the response.
    `members`: further members of the problem document."""

    code = "bad_request"
    status = 400
    title = "Bad request"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[dict[str, object]] | None = None,
        headers: dict[str, str] | None = None,
        members: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.headers = headers or {}
        self.members = members or {}


class RefusedRequest(RequestError):
    """Raised by the server, before there is a request. Where the next request begins is unknown, so the connection is closed."""


class MalformedRequest(RefusedRequest):
    """The bytes on the connection are not valid HTTP/1.1."""

    code = "malformed_request"
    title = "Malformed HTTP request"


class TargetTooLong(RefusedRequest):
    """The request line exceeds the size limit."""

    code = "target_too_long"
    status = 414
    title = "Request target too long"


class HeadTooLarge(RefusedRequest):
    """The request line and header fields exceed the size limit."""

    code = "head_too_large"
    status = 431
    title = "Request head too large"


class HeadTimeout(RefusedRequest):
    """The request line and header fields did not arrive in time."""

    code = "head_timeout"
    status = 408
    title = "Request head timed out"


class ExpectationFailed(RefusedRequest):
    """The request expects something other than `100-continue`."""

    code = "expectation_failed"
    status = 417
    title = "Expectation cannot be met"


class NotImplementedRequest(RefusedRequest):
    """The request needs a transfer coding or a method that no endpoint can have."""

    code = "not_implemented"
    status = 501
    title = "Not implemented"


class VersionNotSupported(RefusedRequest):
    """The request is not of HTTP/1."""

    code = "version_not_supported"
    status = 505
    title = "HTTP version not supported"


class InvalidParameters(RequestError):
    code = "invalid_parameters"
    title = "Missing or invalid parameters"


class InvalidBody(RequestError):
    code = "invalid_body"
    title = "Invalid request body"


class BodyTooLarge(RequestError):
    code = "body_too_large"
    status = 413
    title = "Request body too large"


class BodyTimeout(RequestError):
    code = "body_timeout"
    status = 408
    title = "Request body timed out"


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class UploadNotStored(RequestError):
    """A file that the client uploaded could not be stored, for instance because the disk is full."""

    code = "upload_not_stored"
    status = 503
    title = "Upload could not be stored"


class Unauthenticated(RequestError):
    """The request proves no identity, or not one that the endpoint accepts. Does not say which part of a credential is wrong."""

    code = "unauthenticated"
    status = 401
    title = "Authentication required"
    is_refusal = False
    """Whether a credential was sent and refused."""


class Unavailable(RequestError):
    """Whether the request may come in cannot be decided at the moment, because something that decides it is away."""

    code = "unavailable"
    status = 503
    title = "Temporarily unavailable"


class Forbidden(RequestError):
    """The client may not do this, whoever it is or because of who it is."""

    code = "forbidden"
    status = 403
    title = "Not allowed"


class RateLimited(RequestError):
    """The client has sent more requests than a rate limit or a quota allows. **Source:** RFC 6585 section 4."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"


class NotFound(RequestError):
    code = "not_found"
    status = 404
    title = "No such endpoint"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"


class NotAcceptable(RequestError):
    """The client accepts no media type that the endpoint answers with. Decided before anything is called."""

    code = "not_acceptable"
    status = 406
    title = "Not acceptable"


class Overloaded(RequestError):
    """The gateway or the endpoint is at its limit of concurrent requests. Decided before the request body is read."""

    code = "overloaded"
    status = 503
    title = "Too many concurrent requests"


# --------------------------------------------------------------------------------------------------------------- steps


class StepError(AnabranchError):
    """Why a step has no value.

    `is_timeout`: the failure is a timeout. When no upstream answered and every failure is a timeout, the response is 504 instead of 502.
    `may_be_processed`: the upstream may have acted on the request, so only an idempotent call may be retried.
    `retry_after_s`: seconds after which a retry makes sense; None when unknown.
    `proxy_error`: error type of RFC 9209 section 2.3; "" when none fits.
    `is_absent`: a service said that what was asked for is not there: a client's matter, and no fault of any service.
    """

    code = "step_failed"
    status: int = 502
    proxy_error: ClassVar[str] = ""
    is_timeout: bool = False

    def __init__(self, detail: str, *, may_be_processed: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.may_be_processed = may_be_processed
        self.retry_after_s = retry_after_s
        self.is_absent = False


class UpstreamError(StepError):
    code = "upstream_error"
    title = "Upstream failed"


class ConnectError(UpstreamError):
    code = "connect_failed"
    title = "Upstream unreachable"
    proxy_error = "connection_refused"


class ResolveError(ConnectError):
    code = "resolve_failed"
    title = "Upstream host name has no address"
    proxy_error = "dns_error"


class ConnectTimeout(ConnectError):
    code = "connect_timeout"
    status = 504
    title = "Connection to upstream timed out"
    proxy_error = "connection_timeout"
    is_timeout = True


class TLSError(ConnectError):
    code = "tls_failed"
    title = "TLS handshake with upstream failed"
    proxy_error = "tls_certificate_error"


class UpstreamTimeout(UpstreamError):
    code = "timeout"
    status = 504
    title = "Upstream did not answer in time"
    proxy_error = "http_response_timeout"
    is_timeout = True


class ConnectionLost(UpstreamError):
    code = "connection_lost"
    title = "Upstream connection lost"
    proxy_error = "http_response_incomplete"


class ProtocolError(UpstreamError):
    code = "protocol_error"
    title = "Invalid HTTP from upstream"
    proxy_error = "http_protocol_error"


class ResponseTooLarge(UpstreamError):
    code = "response_too_large"
    title = "Upstream response too large"
    proxy_error = "http_response_body_size"


class InvalidJSON(UpstreamError):
    code = "invalid_json"
    title = "Upstream response is not JSON"
    proxy_error = "http_protocol_error"


class InvalidFormat(UpstreamError):
    """The body is not of the format that the step's `decode` names: HTML, XML, a form."""

    code = "invalid_format"
    title = "Upstream response is not in the expected format"
    proxy_error = "http_protocol_error"


class InvalidCharset(UpstreamError):
    """The body is not text: its charset is unknown, or has no character for some of its bytes."""

    code = "invalid_charset"
    title = "Upstream response is not text in its charset"
    proxy_error = "http_protocol_error"


_ABOUT_THE_GATEWAY: Final = frozenset({407, 408, 411, 417, 421, 425, 426, 495, 496, 497, 499})
"""Statuses 4xx that are about the connection between gateway and service, or about how the gateway frames its request. They tell the gateway's
client nothing that it could act on (RFC 9110 sections 15.5.8, 15.5.9, 15.5.12, 15.5.18, 15.5.20, 15.5.22; RFC 8470; nginx's own)."""


class UpstreamStatus(UpstreamError):
    """A response that is not 2xx. When the step is required, a 4xx is passed on to the client, unless it is about the gateway itself; anything
    else becomes 502.

    `fields`: header fields of the response that its status demands, passed on with it. `has_own_credentials`: the call was authenticated by
    credentials of the document, so that a 401 is about these and not about the client's. `body`, `content_type`: of the response, for steps that
    pass errors on. `may_pass`: whether the response means anything to the client, whatever its status is worth to the gateway.
    """

    code = "upstream_status"
    title = "Upstream answered with an error"

    def __init__(
        self,
        upstream_status: int,
        *,
        retry_after_s: float | None = None,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        has_own_credentials: bool = False,
        body: bytes = b"",
        content_type: bytes | None = None,
    ) -> None:
        super().__init__(f"the upstream answered {upstream_status}", may_be_processed=True, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.fields = fields
        self.body = body
        self.content_type = content_type
        is_for_client = 400 <= upstream_status < 500 and upstream_status not in _ABOUT_THE_GATEWAY
        self.status = upstream_status if is_for_client and not (upstream_status == 401 and has_own_credentials) else 502
        self.may_pass = self.status == upstream_status or 500 <= upstream_status < 600
        self.is_absent = upstream_status in (404, 410)


class RejectedError(StepError):
    status = 503
    proxy_error = "connection_limit_reached"


class QueueFull(RejectedError):
    code = "queue_full"
    title = "Upstream queue full"


class QueueTimeout(RejectedError):
    code = "queue_timeout"
    title = "Timed out waiting for an upstream slot"


class UpstreamPaced(RejectedError):
    """The `rate` of an upstream leaves no turn for the call before its deadline. `retry_after_s`: until there will be one. Shares the code, and so the page, of RateLimited."""

    code = "rate_limited"
    title = "Upstream is called too often"


class BreakerOpen(RejectedError):
    code = "breaker_open"
    title = "Circuit breaker open"
    proxy_error = "destination_unavailable"


class DeadlineExceeded(RejectedError):
    code = "deadline_exceeded"
    status = 504
    title = "Deadline exceeded"
    proxy_error = "http_response_timeout"
    is_timeout = True


class NotCached(StepError):
    """The client wants only a stored answer, and there is none. **Source:** RFC 9111 section 5.2.1.7."""

    code = "not_cached"
    status = 504
    title = "No stored answer"


class SkippedError(StepError):
    code = "skipped"
    title = "Step skipped"


class MissingReference(SkippedError):
    code = "missing_reference"
    title = "Referenced value is missing"


class DependencyFailed(SkippedError):
    code = "dependency_failed"
    title = "Step dependency failed"


class NoClientToken(SkippedError):
    """A call passes on the token of its client, or exchanges it, and there is none: the client has proven who it is in another way, or nobody in particular has asked."""

    code = "no_client_token"
    title = "No token of the client"


class TooManyItems(StepError):
    """A step with `each` has more elements than `max_items`."""

    code = "too_many_items"
    title = "Too many elements"


class UnexpectedAnswer(UpstreamError):
    """A service answered, but not with what the document expects of it."""

    code = "unexpected_answer"
    title = "Unexpected answer from upstream"
    proxy_error = "http_protocol_error"


class ConditionFailed(StepError):
    """A condition could not be evaluated on the values of this request, or is neither true nor false."""

    code = "condition_failed"
    title = "Condition could not be evaluated"


class InvalidStatus(StepError):
    """What `response.status` refers to is not a status that a response can have."""

    code = "invalid_status"
    title = "Response status is not valid"


class UnencodableBody(StepError):
    """The value of a call's body does not fit the format that the call sends. Nothing was sent."""

    code = "unencodable_body"
    title = "Body cannot be encoded"


class ShapeError(StepError):
    code = "not_mergeable"
    title = "Step value cannot be merged"


class ProcessingTimeout(StepError):
    """The services have answered, but the deadline passed while the gateway itself was reading or merging large answers."""

    code = "processing_timeout"
    status = 504
    title = "Gateway ran out of time"
    proxy_error = "proxy_internal_error"
    is_timeout = True


class NothingAnswered(StepError):
    """Every step that the response would show has failed, or every one that an `any` step names. `status`: 504 when all of them failed with a timeout, else 502."""

    code = "nothing_answered"
    title = "No upstream answered"

    def __init__(self, detail: str = "every step that this response shows failed", *, is_timeout: bool) -> None:
        super().__init__(detail)
        self.status = 504 if is_timeout else 502
        self.is_timeout = is_timeout


class ComputePoolFull(RejectedError):
    code = "compute_pool_full"
    title = "Compute pool full"


class ComputePoolDown(RejectedError):
    code = "compute_pool_down"
    title = "Compute pool unavailable"
    proxy_error = "destination_unavailable"


class ComputeError(StepError):
    """A hook gave no usable value. The text of its exception goes to the log only, never into this error."""

    code = "compute_error"
    status = 500
    title = "Compute function failed"
    proxy_error = "proxy_internal_error"


class ComputeRefused(ComputeError):
    """The hook raised `Refused`. When its step is required, its text is the problem that the client gets.

    `public_title`: in place of the class's. `fields`: header fields of the response. `members`: JSON text of the further members of the problem
    document, by name.
    """

    code = "refused"
    title = "Refused by a function"
    proxy_error = "http_request_denied"

    def __init__(
        self,
        status: int,
        public_title: str,
        detail: str,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        members: dict[str, bytes] | None = None,
    ) -> None:
        super().__init__(detail, may_be_processed=True)
        self.status = status
        self.public_title = public_title
        self.fields = fields
        self.members = members or {}
        self.is_absent = status in (404, 410)


class ComputeFailed(ComputeError):
    code = "compute_failed"


class ComputeTimeout(ComputeError):
    code = "compute_timeout"
    status = 504
    title = "Compute function timed out"
    proxy_error = "http_response_timeout"
    is_timeout = True


class ComputeInvalidInput(ComputeError):
    """The arguments do not fit the hook's annotations. They come from the request or an upstream, hence 502 and not 500."""

    code = "compute_invalid_input"
    status = 502
    title = "Invalid input for compute function"


class ComputeInvalidResult(ComputeError):
    code = "compute_invalid_result"
    title = "Invalid result from compute function"


class WorkerLost(ComputeError):
    code = "compute_worker_lost"
    title = "Compute worker crashed"


# ------------------------------------------------------------------------------------------------------------- journal


class JournalError(AnabranchError):
    """The record that an endpoint must write before it answers was not written, or not in time. The upstreams were called nevertheless.

    `detail`: a sentence for the client, without paths. `retry_after_s`: seconds after which a retry makes sense; None when unknown.
    """

    code = "journal_unavailable"
    status = 503
    title = "Response could not be recorded"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class JournalFull(JournalError):
    """The journal's queue is full."""
