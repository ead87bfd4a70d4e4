"""Compiles the whole document: every endpoint, and the checks across endpoints."""

from collections.abc import Collection, Mapping, Sequence

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.plan.access import check_access, failures_of
from anabranch.plan.caching import bounds_of, is_cached_call
from anabranch.plan.endpoint import EndpointCompiler
from anabranch.plan.fields import report_header
from anabranch.plan.forwarding import report_forward_headers
from anabranch.plan.kinds.call import decoded_calls, is_judged_call
from anabranch.plan.kinds.compute import check_backends, pools_of
from anabranch.plan.known import CheckHook, Known, trust_hook
from anabranch.plan.limits import check_limits
from anabranch.plan.model import DocumentPlan, EndpointPlan
from anabranch.plan.reference import ROOTS, in_fixed_text
from anabranch.plan.response import check_default_response
from anabranch.plan.reuse import check_default_reuse
from anabranch.plan.routes import PathError, Segments, ambiguous, parse_path, route_key
from anabranch.plan.rules import compile_rules
from anabranch.plan.scope import Path
from anabranch.plan.store import compile_store
from anabranch.plan.upstream import UpstreamPlan, compile_upstream


def compile_document(
    document: config.Document,
    problems: Problems,
    *,
    endpoint_paths: Sequence[Path] | None = None,
    broken: Collection[Path] = (),
    check_hook: CheckHook = trust_hook,
) -> DocumentPlan:
    """Compile a document. Adds problems to `problems`; the caller raises them. The plan contains the endpoints without problems.

    `endpoint_paths`: the path of each endpoint in the document as written, where its index may differ. `broken`: paths of the parts that the
    models rejected; references to them are not reported again. `check_hook`: checks the functions of compute steps.
    """
    paths = list(endpoint_paths) if endpoint_paths is not None else [("endpoints", index) for index in range(len(document.endpoints))]
    steps = [step for endpoint in document.endpoints for step in endpoint.steps.values()]
    cached = {step.upstream for step in steps if is_cached_call(step, document.defaults)}
    judged = {step.upstream for step in steps if is_judged_call(step)}
    upstreams = {
        name: compile_upstream(name, upstream, has_cached_calls=name in cached, has_judged_calls=name in judged)
        for name, upstream in document.upstreams.items()
    }
    known = Known(
        defaults=document.defaults,
        auth=document.auth,
        rate_limits=document.rate_limits,
        upstreams=upstreams,
        backends=document.compute_backends,
        broken=frozenset(broken),
        check_hook=check_hook,
    )
    _check_upstreams(document, upstreams, problems)
    if document.auth_failures is not None and not document.auth:
        problems.add(("auth_failures",), "nothing is refused without `auth`", at_key=True)
    if "auth" in document.defaults.model_fields_set:
        check_access(document.defaults.auth, ("defaults", "auth"), known, problems)
    check_limits(document, known, problems)
    rules = compile_rules(document, problems)
    check_default_response(document.defaults.response, problems)
    check_default_reuse(document.defaults.response, problems)
    if document.cors is not None and document.cors.allow_credentials and "*" in document.cors.allow_origins:
        message = "with `allow_credentials` and `*`, every site can act here as the users that visit it"
        problems.add(("cors", "allow_origins"), message, hint="list the origins", is_warning=True)
    check_backends(document.compute_backends, problems)
    _check_routes(document, paths, problems)
    plans: list[tuple[EndpointPlan, Path]] = []
    for endpoint, at in zip(document.endpoints, paths, strict=True):
        own = Problems(problems.positions, problems.secrets)
        plan = EndpointCompiler(endpoint, known=known, problems=own, at=at).compile()
        problems.include(own)
        if plan is not None:
            plans.append((plan, at))
    _check_names(plans, problems)
    if document.journal.redact.paths:
        _warn_of_answers_not_kept(plans, problems)
    operations = [step.operation for plan, _ in plans for step in plan.steps]
    return DocumentPlan(
        endpoints=tuple(plan for plan, _ in plans),
        upstreams=upstreams,
        pools=pools_of(operations, document.compute_backends),
        timeout_s=document.defaults.timeout_s,
        public_names=document.defaults.public_names,
        auth=document.auth,
        auth_failures=None if document.auth_failures is None else failures_of(document.auth_failures),
        rules=rules,
        cors=document.cors,
        journal=_without_credentials(document.journal, known),
        cache=bounds_of(document, problems),
        is_cache_shared=document.cache.shared,
        store=None if document.store is None else compile_store(document.store),
        source=document,
    )


def _without_credentials(journal: config.Journal, known: Known) -> config.Journal:
    """The same, with everything redacted by which clients prove who they are."""
    rules = journal.redact
    redact = rules.model_copy(
        update={"headers": [*rules.headers, *known.credential_fields], "query": [*rules.query, *known.credential_parameters]}
    )
    return journal.model_copy(update={"redact": redact})


def _check_upstreams(document: config.Document, plans: Mapping[str, UpstreamPlan], problems: Problems) -> None:
    roots = {*ROOTS, *(step for endpoint in document.endpoints for step in endpoint.steps)}
    for name, upstream in document.upstreams.items():
        for field, value in upstream.headers.items():
            at = ("upstreams", name, "headers", field)
            report_header(at, field, value, problems)
            if not problems.secrets.touch(at) and (found := in_fixed_text(value, roots)) is not None:
                problems.add(
                    at, f"{found} has no effect here: header fields of an upstream are fixed text", hint="put it into `headers` of a step"
                )
        report_forward_headers(("upstreams", name, "forward_headers"), upstream.forward_headers, plans[name], problems)
        if upstream.deadline_header is not None:
            report_header(("upstreams", name, "deadline_header"), upstream.deadline_header, "", problems)


def _check_routes(document: config.Document, paths: Sequence[Path], problems: Problems) -> None:
    seen: dict[object, Path] = {}
    routes: list[Segments] = []
    places: list[tuple[config.Endpoint, Path]] = []
    for endpoint, at in zip(document.endpoints, paths, strict=True):
        try:
            segments = parse_path(endpoint.path)
        except PathError:
            continue
        key = route_key(endpoint.method, segments)
        if key in seen:
            first = problems.positions.locate((*seen[key], "path"))
            problems.add(
                (*at, "path"),
                f"{endpoint.method} {endpoint.path} matches the same requests as the endpoint at {first}",
                value=endpoint.path,
            )
        else:
            seen[key] = at
            routes.append(segments)
            places.append((endpoint, at))
    for other, index in ambiguous(routes):
        (endpoint, at), (rival, rival_at) = places[index], places[other]
        problems.add(
            (*at, "path"),
            f"{endpoint.method} {endpoint.path} and {rival.method} {rival.path} at {problems.positions.locate((*rival_at, 'path'))} match the same "
            "requests, and neither has the longer text",
            value=endpoint.path,
            hint="give one of them a longer text beside its parameters, or another path",
        )


def _warn_of_answers_not_kept(plans: Sequence[tuple[EndpointPlan, Path]], problems: Problems) -> None:
    """Nothing can be redacted in a body that is not JSON."""
    for plan, at in plans:
        for step in decoded_calls(plan.steps) if plan.keeps_answers and plan.record is not None and plan.record.bodies == "steps" else ():
            problems.add(
                (*at, "steps", step.name, "decode"),
                "the journal keeps only digests of these answers, so they cannot be replayed: `redact.paths` cannot find secrets in a body that is not JSON",
                is_warning=True,
            )


def _check_names(plans: Sequence[tuple[EndpointPlan, Path]], problems: Problems) -> None:
    """Report names that several endpoints have, whether set or generated."""
    seen: set[str] = set()
    for plan, at in plans:
        if plan.name in seen:
            problems.add((*at, "name"), f"two endpoints have the name `{plan.name}`", hint="give one of them another `name`")
        seen.add(plan.name)
