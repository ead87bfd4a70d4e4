"""Calls: a request to an upstream, compiled."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Any, Final, TypeGuard

import msgspec

from anabranch import __version__
from anabranch.config import model as config
from anabranch.config.units import format_duration
from anabranch.core.exchange import ANY_2XX, REDIRECTS, HeaderBlock, Request, StaleRule
from anabranch.jsontext.frame import Frame
from anabranch.plan.decoding import Decoding, compile_decoding, json_fault
from anabranch.plan.fields import report_header
from anabranch.plan.judge import JudgePlan, compile_judge
from anabranch.plan.model import HeaderPairs, StepPlan
from anabranch.plan.operation import StepContext
from anabranch.plan.query import compile_query
from anabranch.plan.request import compile_build, compile_headers, compile_path
from anabranch.plan.template import compile_json
from anabranch.plan.upstream import UpstreamPlan

_EVERY_S: Final = 0.5
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
DEFAULT_HEADERS: Final = {"accept": "application/json", "accept-encoding": "gzip, zstd, br", "user-agent": f"anabranch/{__version__}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """`build`: builds the request from a frame, the client's header fields (lower-case names) and the fields that every upstream call of this
    request carries (request id, trace context); raises MissingReference. `path`: the template, as written. `stale`: how a failed call may
    use an old answer; None: not at all. `decoding`: what the answer is read as; None: JSON. `has_own_credentials`: it is authenticated by the document, and not
    by the client. `success`: the statuses of good answers. `expect`, `until`: what a good answer must be, and what ends the repetition. `is_judged_inside`: the
    policies see an answer that `expect` refuses as a failure. `every_s`: the pause between repetitions. The rest as of `OperationPlan`."""

    upstream: str
    method: str
    path: str
    is_idempotent: bool
    is_coalesced: bool
    stale: StaleRule | None
    worst_case_s: float
    most_calls: int
    build: Callable[[Frame, Mapping[bytes, bytes], HeaderPairs], Request]
    success: frozenset[int] = ANY_2XX
    expect: JudgePlan | None = None
    is_judged_inside: bool = False
    until: JudgePlan | None = None
    every_s: float = 0.0
    decoding: Decoding | None = None
    has_own_credentials: bool = False
    may_be_left_out: bool = False

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes]) -> Hashable:
        request = self.build(frame, headers, ())
        return request.method, request.target, request.extra, request.body

    def result_schema(self) -> dict[str, Any] | None:
        return None if self.decoding is None else self.decoding.schema

    def explain(self) -> str:
        return f"{self.method} {self.path} at {self.upstream}"

    def marks(self) -> list[str]:
        return [
            *([f"decode {self.decoding.name}"] if self.decoding is not None else []),
            *(["coalesced"] if self.is_coalesced else []),
            *(["stale if error"] if self.stale is not None else []),
            *([f"good statuses {', '.join(map(str, sorted(self.success)))}"] if self.success is not ANY_2XX else []),
            *([f"expect {self.expect.holds.__doc__}"] if self.expect is not None else []),
            *([f"every {format_duration(self.every_s)} until {self.until.holds.__doc__}"] if self.until is not None else []),
        ]

    def facts(self) -> dict[str, Any]:
        return {"upstream": self.upstream, **({"decode": self.decoding.name} if self.decoding is not None else {})}


def compile(step: config.CallStep, context: StepContext) -> CallPlan | None:  # noqa: A001 - what every kind does
    """Compile a call; None when its upstream is unknown, or something else is wrong, which is reported."""
    method = _method(step, context.endpoint)
    if not step.path.startswith("/"):
        context.report("a path must start with /", "path", value=step.path)
    path = context.parse(step.path, "path")
    if any(char == "#" or char <= " " for part in path if isinstance(part, str) for char in part):
        context.report("a path must not have a fragment or white space", "path", value=step.path)
    query, may_skip = compile_query(step.query, context.parse, context.report, context.scope.slot, context.scope.is_optional)
    headers = {}
    for field, text in step.headers.items():
        report_header((*context.at, "headers", field), field, text, context.problems)
        headers[field] = context.parse(text, "headers", field)
    has_body = "body" in step.model_fields_set
    if has_body:
        context.parse_all(step.body, "body")
        if method == "HEAD":
            context.report("a HEAD request has no body", "body")
    if step.coalesce and method != "GET":
        context.report(f"only a GET can share an exchange, and this is a {method}", "coalesce")
    if step.stale_if_error_s is not None and method != "GET":
        context.report(f"only a GET can use an old answer, and this is a {method}", "stale_if_error")
    if step.coalesce and step.counts_as_failure:
        context.report(
            "a shared exchange cannot fail for one of its callers only: `counts_as_failure` and `coalesce` exclude each other", "coalesce"
        )
    is_idempotent = step.idempotent if step.idempotent is not None else method in IDEMPOTENT
    if step.until is not None and not is_idempotent:
        hint = "set `idempotent: true` if the service allows it to be sent more than once"
        context.report(f"only an idempotent call can be repeated, and this is a {method}", "until", hint=hint)
    expect = compile_judge(step.expect, "expect", context, has_head=True)
    until = compile_judge(step.until, "until", context, has_head=True)
    _check_success(step, context)
    decoding = compile_decoding(step, method, context)
    upstream = context.known.upstreams.get(step.upstream)
    if upstream is None:
        if not context.known.is_broken("upstreams", step.upstream):
            hint = context.known.hint("upstreams", "upstreams", step.upstream, context.known.upstreams)
            context.report(f"unknown upstream `{step.upstream}`", "upstream", hint=hint)
        return None
    if context.problems.errors:
        return None
    scope = context.scope
    block, extra = compile_headers(
        defaults=DEFAULT_HEADERS
        | ({"accept": decoding.accept} if decoding is not None else {})
        | ({"content-type": "application/json"} if has_body else {}),
        upstream=upstream.headers,
        step=headers,
        forward=upstream.forward_headers,
        slot_of=scope.slot,
        optional=scope.is_optional,
    )
    every_s = 0.0 if until is None else _EVERY_S if step.every_s is None else step.every_s
    repetitions = 1 if until is None else _repetitions(step, every_s, context)
    depends_on_client = upstream.forward_headers or any(not isinstance(part, str) for each in headers.values() for part in each)
    origin = "" if depends_on_client else _origin(upstream, block)
    return CallPlan(
        upstream=step.upstream,
        method=method,
        path=step.path,
        is_idempotent=is_idempotent,
        is_coalesced=step.coalesce,
        stale=None
        if step.stale_if_error_s is None
        else StaleRule(step.stale_if_error_s, origin, json_fault if decoding is None else decoding.fault_of),
        decoding=decoding,
        worst_case_s=_worst_case_s(upstream, is_idempotent=is_idempotent) if until is None else 0.0,
        most_calls=_most_calls(upstream, is_idempotent=is_idempotent) * repetitions,
        success=ANY_2XX if step.success is None else frozenset(step.success),
        expect=expect,
        is_judged_inside=step.counts_as_failure,
        until=until,
        every_s=every_s,
        may_be_left_out=may_skip,
        build=compile_build(
            method=method,
            path=compile_path(path, scope.slot, allows_slashes=upstream.allows_encoded_slashes),
            query=query,
            query_glue="&" if "?" in step.path else "?",
            headers=block,
            extra=extra,
            body=compile_json(step.body, scope.slot, is_strict=True) if has_body else None,
        ),
        has_own_credentials=has_own_credentials(upstream, block),
    )


def has_own_credentials(upstream: UpstreamPlan, headers: HeaderBlock) -> bool:
    """Whether calls to the upstream with these fixed header fields are authenticated by the document."""
    return upstream.oauth2 is not None or any(name == b"authorization" for name, _ in headers.pairs)


def is_stale_call(step: config.Step) -> TypeGuard[config.CallStep]:
    """Whether a failed run of the step may be answered with an earlier answer."""
    return isinstance(step, config.CallStep) and step.stale_if_error_s is not None


def is_judged_call(step: config.Step) -> TypeGuard[config.CallStep]:
    """Whether a good answer to the step may be a failure of its upstream."""
    return isinstance(step, config.CallStep) and step.counts_as_failure


def decoded_calls(steps: Iterable[StepPlan]) -> Iterator[StepPlan]:
    """The steps whose answers are not JSON."""
    for step in steps:
        if isinstance(step.operation, CallPlan) and step.operation.decoding is not None:
            yield step


def stale_calls(steps: Iterable[StepPlan]) -> Iterator[tuple[StepPlan, StaleRule]]:
    """The steps whose failed calls may be answered with an earlier answer."""
    for step in steps:
        if isinstance(step.operation, CallPlan) and step.operation.stale is not None:
            yield step, step.operation.stale


def _check_success(step: config.CallStep, context: StepContext) -> None:
    """Report statuses that are named twice, and redirects that never arrive because they are followed."""
    success = step.success or []
    for index, status in enumerate(success):
        if status in success[:index]:
            context.report(f"{status} is in the list twice", "success", index, value=status)
    upstream = context.known.upstreams.get(step.upstream)
    if upstream is not None and upstream.follow_redirects and (redirects := REDIRECTS.intersection(success)):
        message = f"the upstream `{step.upstream}` follows redirects, so {min(redirects)} is no answer"
        context.report(message, "success", hint="call an upstream without `follow_redirects`")


def _repetitions(step: config.CallStep, every_s: float, context: StepContext) -> int:
    """How often a call is made at most before its time is over."""
    limit_s = step.timeout_s or context.endpoint.timeout_s or context.known.defaults.timeout_s
    return max(ceil(limit_s / every_s), 1)


def _method(step: config.CallStep, endpoint: config.Endpoint) -> str:
    """The method of a call. If unset, the endpoint's if the step is the only one or sends a body, else GET. A step with a body never defaults
    to GET: it becomes POST."""
    if step.method is not None:
        return step.method
    has_body = "body" in step.model_fields_set
    if has_body and endpoint.method == "GET":
        return "POST"
    return endpoint.method if has_body or len(endpoint.steps) == 1 else "GET"


def _origin(upstream: UpstreamPlan, headers: HeaderBlock) -> str:
    """Digest of the fixed parts of a call except its target: the upstream, the gateway's credentials, and the header fields."""
    identity = msgspec.json.encode((upstream.addresses, upstream.oauth2, upstream.tls))
    return blake2b(b"\0".join((upstream.name.encode(), identity, headers.wire)), digest_size=12).hexdigest()


def _worst_case_s(upstream: UpstreamPlan, *, is_idempotent: bool) -> float:
    if upstream.timeout_s is None:
        return 0.0
    retry = upstream.retry
    attempts = retry.attempts if retry is not None and is_idempotent else 1
    waits = sum(min(retry.backoff_s * 2**number, retry.max_backoff_s) for number in range(attempts - 1)) if retry is not None else 0.0
    return attempts * upstream.timeout_s + waits


def _most_calls(upstream: UpstreamPlan, *, is_idempotent: bool) -> int:
    if not is_idempotent:
        return 1
    attempts = upstream.retry.attempts if upstream.retry is not None else 1
    return attempts * (2 if upstream.hedge is not None else 1)
