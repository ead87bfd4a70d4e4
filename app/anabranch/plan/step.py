"""Compiles one step in two passes. The first compiles its request (`StepDraft`); the second, when all slots are known, its `StepPlan`."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from anabranch import __version__
from anabranch.config import model as config
from anabranch.config.problems import Problems, did_you_mean
from anabranch.core.exchange import HeaderBlock, StaleRule
from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.order import MERGE_FROM, PLAIN_FROM, reading
from anabranch.jsontext.shape import DecodeMode, Shape, choose_mode, compile_reader
from anabranch.plan.call import Build, compile_build, compile_headers, compile_path, compile_query
from anabranch.plan.fields import name_fault, value_fault
from anabranch.plan.model import ComputePlan, StepPlan
from anabranch.plan.reference import strings
from anabranch.plan.scope import Path, Scope
from anabranch.plan.template import compile_json

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
DEFAULT_HEADERS: Final = {"accept": "application/json", "accept-encoding": "gzip, zstd, br", "user-agent": f"anabranch/{__version__}"}


class StepDraft:
    """A step after the first pass. `needs`: names of the steps that it refers to. `compute`: None for a call."""

    def __init__(
        self, *, name: str, source: config.Step, at: Path, method: str, needs: set[str], build: Build, compute: ComputePlan | None = None,
        stale: StaleRule | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.source = source
        self.at = at
        self.method = method
        self.needs = needs
        self.build = build
        self.compute = compute
        self.stale = stale


def method_of(step: config.Step, endpoint: config.Endpoint) -> str:
    """The method of a call. If unset, the endpoint's if the step is the only one or sends a body, else GET. A step with a body never defaults
    to GET: it becomes POST."""
    if step.method is not None:
        return step.method
    has_body = "body" in step.model_fields_set
    if has_body and endpoint.method == "GET":
        return "POST"
    return endpoint.method if has_body or len(endpoint.steps) == 1 else "GET"


def draft_call(
    name: str, step: config.Step, *, endpoint: config.Endpoint, upstreams: Mapping[str, config.Upstream], broken_upstreams: set[str],
    scope: Scope, problems: Problems, at: Path,
) -> StepDraft | None:  # fmt: skip
    """Compile the request of a call. After a problem, which is reported, the draft has no usable `build`."""
    needs: set[str] = set()
    method = method_of(step, endpoint)
    path = step.path or ""
    if not path.startswith("/"):
        problems.add((*at, "path"), "a path must start with /", value=path)
    path_template = scope.parse(path, (*at, "path"), user=name, needs=needs)
    if any(char == "#" or char <= " " for part in path_template if isinstance(part, str) for char in part):
        problems.add((*at, "path"), "a path must not have a fragment or white space", value=path)
    for where, text in strings(step.query):
        scope.parse(text, (*at, "query", *where), user=name, needs=needs)
    for field, value in step.query.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
            problems.add((*at, "query", field), "a query value must be a string, a number, a boolean or a list of those")
    header_templates = {}
    for field, text in step.headers.items():
        check_header((*at, "headers", field), field, text, problems)
        header_templates[field] = scope.parse(text, (*at, "headers", field), user=name, needs=needs)
    has_body = "body" in step.model_fields_set
    if has_body:
        for where, text in strings(step.body, ()):
            scope.parse(text, (*at, "body", *where), user=name, needs=needs)
        if method == "HEAD":
            problems.add((*at, "body"), "a HEAD request has no body")
    if step.coalesce and method != "GET":
        problems.add((*at, "coalesce"), f"only a GET can share an exchange, and this is a {method}")
    if step.stale_if_error_s is not None and method != "GET":
        problems.add((*at, "stale_if_error"), f"only a GET can use an old answer, and this is a {method}")
    assert step.upstream is not None
    upstream = upstreams.get(step.upstream)
    if upstream is None and step.upstream not in broken_upstreams:
        known = [*upstreams, *broken_upstreams]
        hint = did_you_mean(step.upstream, known) or f"known upstreams: {', '.join(known) or 'none'}"
        problems.add((*at, "upstream"), f"unknown upstream `{step.upstream}`", hint=hint)
    if upstream is None or problems.errors:
        return StepDraft(name=name, source=step, at=at, method=method, needs=needs, build=_unbuilt)
    defaults = dict(DEFAULT_HEADERS) | ({"content-type": "application/json"} if has_body else {})
    block, extra = compile_headers(
        defaults=defaults, upstream=upstream.headers, step=header_templates, forward=upstream.forward_headers, slot_of=scope.slot,
        optional=scope.is_optional,
    )  # fmt: skip
    build = compile_build(
        method=method,
        path=compile_path(path_template, scope.slot),
        query=compile_query(step.query, lambda text: scope.parse(text, at), scope.slot, scope.is_optional) if step.query else None,
        query_glue="&" if "?" in path else "?",
        headers=block,
        extra=extra,
        body=compile_json(step.body, scope.slot, is_strict=True) if has_body else None,
    )
    stale: StaleRule | None = None
    if step.stale_if_error_s is not None:
        depends_on_client = upstream.forward_headers or any(
            not isinstance(part, str) for template in header_templates.values() for part in template
        )
        stale = StaleRule(step.stale_if_error_s, "" if depends_on_client else _origin(step.upstream, upstream, block))
    return StepDraft(name=name, source=step, at=at, method=method, needs=needs, build=build, stale=stale)


def _origin(name: str, upstream: config.Upstream, headers: HeaderBlock) -> str:
    """Digest of the fixed parts of a call except its target: the upstream, the gateway's credentials, and the header fields."""
    identity = upstream.model_dump_json(include={"url", "urls", "oauth2", "tls"})
    return blake2b(b"\0".join((name.encode(), identity.encode(), headers.wire)), digest_size=12).hexdigest()


def draft_compute(name: str, step: config.Step, *, at: Path, needs: set[str], compute: ComputePlan | None) -> StepDraft:
    """A compute step after the first pass. `compute`: None when it has a problem, which has been reported."""
    return StepDraft(name=name, source=step, at=at, method="", needs=needs, build=_no_request, compute=compute)


def _no_request(*_: Any) -> Any:
    raise AssertionError("a compute sends no request")


def _unbuilt(*_: Any) -> Any:
    raise AssertionError("a document with problems is never run")


def check_header(at: Path, name: str, value: str, problems: Problems) -> None:
    if (fault := name_fault(name)) is not None:
        problems.add(at, fault, at_key=True)
    if (fault := value_fault(value)) is not None:
        problems.add(at, fault)


def shape_of(step: config.Step, *, must_be_object: bool) -> Shape:
    return Shape(
        target=tuple(step.target.split(".")) if step.target else (),
        pick=raw.tree(step.pick) if step.pick is not None else None,
        drop=raw.tree(step.drop) if step.drop is not None else None,
        rename=raw.rename_tree(step.rename) if step.rename else None,
        wrap=step.wrap,
        must_be_object=must_be_object and not step.hidden,
    )


def check_shape(step: config.Step, at: Path, problems: Problems) -> None:
    """Report invalid paths in the shaping rules."""
    listed: list[tuple[Path, str]] = [((*at, "target"), step.target)] if step.target is not None else []
    for rule in ("pick", "drop"):
        listed += [((*at, rule, index), path) for index, path in enumerate(getattr(step, rule) or ())]
    listed += [((*at, "rename", old), old) for old in step.rename or ()]
    for where, path in listed:
        if "" in path.split("."):
            problems.add(where, "a path must be names separated by dots, such as orders.sku", value=path)
    for old, new in (step.rename or {}).items():
        if not new or "." in new:
            problems.add((*at, "rename", old), "a new name must be a name, not a path: a member cannot be moved", value=new)


def plan_step(draft: StepDraft, index: int, *, names: list[str], dependents: list[int], scope: Scope, must_be_object: bool) -> StepPlan:
    """The second pass, when all slots are known."""
    step = draft.source
    slots = scope.slots_of(draft.name)
    shape = shape_of(step, must_be_object=must_be_object)
    mode = choose_mode(shape, slots)
    offloaded = reading(shape, slots, mode)
    default = orjson.dumps(step.default)
    fill_default = None
    if "default" in step.model_fields_set:
        fill = compile_reader(Shape(), slots, DecodeMode.FULL)

        def fill_default(frame: Frame) -> None:
            fill(default, frame)

    return StepPlan(
        index=index,
        name=draft.name,
        upstream=step.upstream or "",
        method=draft.method,
        is_required=step.required,
        is_hidden=step.hidden,
        is_idempotent=step.idempotent if step.idempotent is not None else draft.method in IDEMPOTENT,
        is_coalesced=step.coalesce,
        stale=draft.stale,
        needs=tuple(sorted(names.index(need) for need in draft.needs if need in names)),
        dependents=tuple(dependents),
        timeout_s=step.timeout_s,
        mode=mode,
        build=draft.build,
        read=compile_reader(shape, slots, mode),
        default=default,
        fill_default=fill_default,
        source=step,
        compute=draft.compute,
        reading=offloaded,
        large_from=min(offloaded.from_bytes, MERGE_FROM // 2 if must_be_object else PLAIN_FROM),
    )
