"""Calls: a request to an upstream, compiled."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, inf
from typing import Any, Final, TypeGuard
from urllib.parse import unquote_plus

import msgspec

from anabranch import __version__
from anabranch.config import model as config
from anabranch.config.base import ALL
from anabranch.config.units import format_duration
from anabranch.core.exchange import ANY_2XX, REDIRECTS, HeaderBlock
from anabranch.core.forwarding import Forwarded
from anabranch.jsontext.frame import Frame
from anabranch.plan.access import access_of
from anabranch.plan.body import FILES
from anabranch.plan.caching import CachingPlan, check_caching, compile_caching
from anabranch.plan.decoding import Decoding, compile_decoding
from anabranch.plan.encode import FORMATS, REPORTS
from anabranch.plan.encode.multipart import Encoded, compile_multipart
from anabranch.plan.encode.shapes import reference_of
from anabranch.plan.fields import report_header
from anabranch.plan.forwarding import compile_forward_query, compile_host, report_forward_headers
from anabranch.plan.judge import JudgePlan, compile_judge
from anabranch.plan.model import HeaderPairs, StepPlan
from anabranch.plan.operation import StepContext
from anabranch.plan.query import compile_query
from anabranch.plan.request import Build, compile_build, compile_headers, compile_path
from anabranch.plan.template import SlotOf, compile_json
from anabranch.plan.upstream import UpstreamPlan

_EVERY_S: Final = 0.5
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
CONTENT_TYPE: Final = "content-type"
DEFAULT_HEADERS: Final = {"accept": "application/json", "accept-encoding": "gzip, zstd, br", "user-agent": f"anabranch/{__version__}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """`build`: see `request.Build`. `path`: the template, as written. `caching`: how answers are stored and used again; None: not at all. `encoding`: the
    format of its body. `decoding`: what the answer is read as; None: JSON. `success`: the statuses of good answers. `expect`, `until`: what a good answer must be, and what ends the repetition.
    `is_judged_inside`: the policies see an answer that `expect` refuses as a failure. `every_s`: the pause between repetitions. `has_own_credentials`: it is
    authenticated by the document, and not by the client. `tells_client`: it carries a token of the client. `forwarded`: what the service is told of the client. `forward_headers`, `forward_query`: what is
    passed on of the request, as written. `host`: of the Host header, as written; None: the address's. The rest as of `OperationPlan`."""

    upstream: str
    method: str
    path: str
    is_idempotent: bool
    is_coalesced: bool
    caching: CachingPlan | None
    worst_case_s: float
    most_calls: int
    build: Build
    forwarded: Forwarded
    encoding: str = "json"
    success: frozenset[int] = ANY_2XX
    expect: JudgePlan | None = None
    is_judged_inside: bool = False
    until: JudgePlan | None = None
    every_s: float = 0.0
    decoding: Decoding | None = None
    forward_headers: tuple[str, ...] = ()
    forward_query: tuple[str, ...] = ()
    host: str | None = None
    has_own_credentials: bool = False
    tells_client: bool = False
    may_be_left_out: bool = False

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes], reached: HeaderPairs, query: bytes) -> Hashable:
        request = self.build(frame, headers, () if self.forwarded == "off" else reached, query)
        return request.method, request.target, request.extra, request.body, request.host

    def result_schema(self) -> dict[str, Any] | None:
        return None if self.decoding is None else self.decoding.schema

    def explain(self) -> str:
        return f"{self.method} {self.path} at {self.upstream}"

    def marks(self) -> list[str]:
        marks = [f"sends {self.encoding}"] if self.encoding != "json" else []
        marks += [f"decode {self.decoding.name}"] if self.decoding is not None else []
        marks += ["coalesced"] if self.is_coalesced else []
        marks += [] if self.caching is None else self.caching.marks()
        if self.success is not ANY_2XX:
            marks.append(f"good statuses {', '.join(map(str, sorted(self.success)))}")
        if self.expect is not None:
            marks.append(f"expect {self.expect.holds.__doc__}")
        if self.until is not None:
            marks.append(f"every {format_duration(self.every_s)} until {self.until.holds.__doc__}")
        if self.host is not None:
            marks.append("with the client's host" if self.host == "client" else f"as {self.host}")
        if self.forwarded != "append":
            marks.append(f"forwarded {self.forwarded}")
        if self.forward_headers:
            marks.append(f"header fields {_listed(self.forward_headers)} of the client")
        if self.forward_query:
            marks.append(f"query {_listed(self.forward_query)} of the client")
        return marks

    def facts(self) -> dict[str, Any]:
        return {
            "upstream": self.upstream,
            **({} if self.caching is None else {"cache": self.caching.facts()}),
            **({"encode": self.encoding} if self.encoding != "json" else {}),
            **({"decode": self.decoding.name} if self.decoding is not None else {}),
            **({} if self.forwarded == "append" else {"forwarded": self.forwarded}),
            **({} if self.host is None else {"host": self.host}),
            **({"forward_headers": list(self.forward_headers)} if self.forward_headers else {}),
            **({"forward_query": list(self.forward_query)} if self.forward_query else {}),
        }


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
        if step.encode in REPORTS:
            REPORTS[step.encode](step.body, lambda message, *below: context.report(message, "body", *below))
    elif step.encode != "json":
        context.report("`encode` has no effect: the call has no body", "encode")
    is_multipart = has_body and step.encode == "multipart"
    if is_multipart:
        for name in (name for name in step.headers if name.lower() == CONTENT_TYPE):
            context.report("a multipart body has a content type of its own, with its boundary", "headers", name, at_key=True)
        for key in ("coalesce", "stale_if_error"):
            if getattr(step, "stale_if_error_s" if key == "stale_if_error" else key):
                context.report(f"a call with a multipart body cannot have `{key}`: its body may be a file of the client", key)
        if step.batch is not None and step.batch.window_s is not None:
            context.report(
                "a call with a multipart body cannot be shared by requests: its body may be a file of the client", "batch", "window"
            )
    if step.coalesce and method != "GET":
        context.report(f"only a GET can share an exchange, and this is a {method}", "coalesce")
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
    forward_headers = upstream.forward_headers
    if step.forward_headers is not None:
        forward_headers = tuple(step.forward_headers)
        report_forward_headers((*context.at, "forward_headers"), forward_headers, upstream, context.problems)
    if upstream.tells_client:
        _check_tokens(step, context)
    own_query = {*step.query, *_names_in(step.path)}
    for index, name in enumerate(step.forward_query):
        if name in own_query:
            context.report(f"`{name}` is not forwarded: the call's own query has it", "forward_query", index)
    caching_rule = check_caching(step, method, forward_headers, context)
    if context.problems.errors:
        return None
    select = context.endpoint.response.select
    # `*` stands for no credentials and for nothing that is for the gateway; by name, everything can be forwarded.
    ours = [*([] if select is None else [select.parameter]), *context.known.credential_parameters] if ALL in step.forward_query else []
    scope = context.scope
    block, extra = compile_headers(
        defaults=DEFAULT_HEADERS
        | ({"accept": decoding.accept} if decoding is not None else {})
        | ({CONTENT_TYPE: "application/json"} if has_body else {}),
        upstream=upstream,
        step=headers,
        forward=forward_headers,
        content_type=_content_type(step, context, upstream) if has_body else None,
        slot_of=scope.slot,
        optional=scope.is_optional,
        kept_back=context.known.credential_fields,
    )
    every_s = 0.0 if until is None else _EVERY_S if step.every_s is None else step.every_s
    repetitions = 1 if until is None else _repetitions(step, every_s, context)
    depends_on_client = (
        forward_headers or upstream.host == "client" or any(not isinstance(part, str) for each in headers.values() for part in each)
    )
    caching = None
    if caching_rule is not None:
        caching = compile_caching(
            step,
            caching_rule,
            context,
            block=block,
            forward_headers=forward_headers,
            decoding=decoding,
            origin="" if depends_on_client else _origin(upstream, block),
        )
    return CallPlan(
        upstream=step.upstream,
        method=method,
        path=step.path,
        is_idempotent=is_idempotent,
        is_coalesced=step.coalesce,
        caching=caching,
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
            path=compile_path(path, scope.slot, allows_slashes=upstream.allows_encoded_slashes, is_rest=scope.is_rest),
            query=query,
            query_glue="&" if "?" in step.path else "?",
            headers=block,
            extra=extra,
            body=_encoded(step, scope.slot) if has_body and not is_multipart else None,
            multipart=_multipart(step, context) if is_multipart else None,
            forward_query=compile_forward_query(step.forward_query, (*own_query, *ours)),
            host=compile_host(upstream.host),
        ),
        encoding=step.encode,
        forwarded=upstream.forwarded,
        forward_headers=forward_headers,
        forward_query=tuple(step.forward_query),
        host=upstream.host,
        has_own_credentials=has_own_credentials(upstream, block),
        tells_client=upstream.tells_client,
    )


def _encoded(step: config.CallStep, slot_of: SlotOf) -> Callable[[Frame], bytes]:
    render = compile_json(step.body, slot_of, is_strict=True)
    if step.encode == "json":
        return render
    encode = FORMATS[step.encode].encode
    return lambda frame: encode(render(frame))


def _multipart(step: config.CallStep, context: StepContext) -> Callable[[Frame], Encoded]:
    files_slot = context.scope.slot(FILES) if _body_type(context.endpoint) == "multipart" else None
    return compile_multipart(step.body, context.scope.slot, files_slot, None if step.each is None else reference_of(step.each))


def _body_type(endpoint: config.Endpoint) -> str:
    return "json" if endpoint.body is None else endpoint.body.type


def _content_type(step: config.CallStep, context: StepContext, upstream: UpstreamPlan) -> str | None:
    """The content type that neither the upstream nor the client replaces: of another format than JSON, and of JSON that the client sent as something
    else. "": in another way; None: they may replace it."""
    if step.encode == "multipart":
        return ""
    if step.encode != "json":
        return FORMATS[step.encode].MEDIA_TYPE
    if _body_type(context.endpoint) == "json":
        return None
    return next((value for name, value in upstream.headers.items() if name.lower() == CONTENT_TYPE), "application/json")


def _listed(names: Sequence[str]) -> str:
    return ", ".join("all" if name == ALL else name for name in names)


def _names_in(path: str) -> Iterator[str]:
    """The names in the query of a path template."""
    for pair in path.partition("?")[2].split("&"):
        yield unquote_plus(pair.partition("=")[0])


def has_own_credentials(upstream: UpstreamPlan, headers: HeaderBlock) -> bool:
    """Whether calls to the upstream with these fixed header fields are authenticated by the document."""
    return (upstream.oauth2 is not None and not upstream.oauth2.is_exchange) or any(name == b"authorization" for name, _ in headers.pairs)


def is_judged_call(step: config.Step) -> TypeGuard[config.CallStep]:
    """Whether a good answer to the step may be a failure of its upstream."""
    return isinstance(step, config.CallStep) and step.counts_as_failure


def decoded_calls(steps: Iterable[StepPlan]) -> Iterator[StepPlan]:
    """The steps whose answers are not JSON."""
    for step in steps:
        if isinstance(step.operation, CallPlan) and step.operation.decoding is not None:
            yield step


def has_cached_calls(steps: Iterable[StepPlan]) -> bool:
    """Whether the answers to a step may be stored."""
    return any(isinstance(step.operation, CallPlan) and step.operation.caching is not None for step in steps)


def fallback_calls(steps: Iterable[StepPlan]) -> Iterator[tuple[StepPlan, CachingPlan]]:
    """The steps whose failed calls may be answered with an earlier answer, and which are not cached otherwise."""
    for step in steps:
        if isinstance(step.operation, CallPlan) and step.operation.caching is not None and step.operation.caching.rule.is_fallback:
            yield step, step.operation.caching


def forwarded_query(step: StepPlan) -> tuple[str, ...]:
    """The parameters of the client's query that the step passes on, as written."""
    return step.operation.forward_query if isinstance(step.operation, CallPlan) else ()


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


def _check_tokens(step: config.CallStep, context: StepContext) -> None:
    """Report a call that sends a token of the client where clients have none."""
    access = access_of(context.endpoint, context.known)
    without = [name for name in access.any_ if name in context.known.auth and not context.known.auth[name].kind.has_token] if access else []
    if access is None:
        context.report(f"the upstream `{step.upstream}` is sent the client's token, and the endpoint has no `auth`", "upstream")
    elif without:
        message = f"the upstream `{step.upstream}` is sent the client's token, and clients of `{without[0]}` have none"
        context.report(message, "upstream", hint="leave it out of the endpoint's `auth`, or call another upstream")


def _repetitions(step: config.CallStep, every_s: float, context: StepContext) -> int:
    """How often a call is made at most before its time is over. Reports a call that is never repeated."""
    limit_s = min(step.timeout_s or inf, context.endpoint.timeout_s or context.known.defaults.timeout_s)
    if every_s >= limit_s:
        message = f"the call is never repeated: its time is over after {format_duration(limit_s)}, before the first pause of {format_duration(every_s)}"
        context.report(
            message, "until" if step.every_s is None else "every", hint="shorten `every`, or extend the timeout", is_warning=True
        )
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
    identity = msgspec.json.encode((upstream.addresses, upstream.oauth2, upstream.tls, upstream.host))
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
