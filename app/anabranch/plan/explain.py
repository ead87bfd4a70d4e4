"""Plans as text: when each step runs, how much of each answer is decoded, the critical path and the deadline, the most upstream calls."""

from collections.abc import Callable

from anabranch.config import model as config
from anabranch.plan.calls import most_calls
from anabranch.plan.each import describe_each
from anabranch.plan.graph import longest_path, order
from anabranch.plan.model import EndpointPlan, ResponseField, StepPlan
from anabranch.plan.reuse import describe_reuse
from anabranch.plan.select import needed
from anabranch.plan.stand_ins import waits
from anabranch.plan.upstream import UpstreamPlan


def explain(plan: EndpointPlan, upstreams: dict[str, UpstreamPlan], policies: Callable[[UpstreamPlan], list[str]]) -> str:
    """The plan of an endpoint in human-readable form. Of an upstream only its name is shown, so no secret can leak."""
    steps = plan.steps
    come_before = waits(steps)
    longest, chain = longest_path(come_before, [step.worst_case_s for step in steps])
    lines = [f"{plan.method} {plan.path}  ({plan.name})", f"  deadline {_seconds(plan.timeout_s)}"]
    if (access := plan.access) is not None:
        lines.append(f"  for clients of {' or '.join(access.names)}{f' if {access.text}' if access.text else ''}")
    lines += [f"  limit {limit.text}" for limit in plan.limits]
    lists = (("from", plan.source.allow_from), ("not from", plan.source.deny_from))
    places = [f"{word} {', '.join(networks)}" for word, networks in lists if networks]
    if places:
        lines.append(f"  clients {', '.join(places)}")
    if plan.body is not None and plan.body.kind != "json":
        lines.append(f"  body {plan.body.media_type.decode()}, at most {plan.body.max_size_bytes} bytes")
    for level in _levels(come_before):
        before = sorted({steps[need].name for index in level for need in come_before[index]})
        lines.append(f"  {'at once' if not before else 'after ' + ', '.join(before)}")
        lines += [f"    {_step(steps[index])}" for index in level]
    lines.append(f"  critical path {' -> '.join(steps[index].name for index in chain) or 'none'}: {_against(longest, plan.timeout_s)}")
    calls = most_calls(steps)
    lines.append(f"  upstream calls: at most {calls.formula if calls.formula == str(calls.most) else f'{calls.formula}: {calls.most}'}")
    for name in dict.fromkeys(step.upstream for step in steps if step.upstream):
        lines.append(f"  policies of {name}: {' > '.join(policies(upstreams[name]))}")
    lines.append(f"  response {_response(plan)}")
    if plan.select is not None:
        always = ", ".join(steps[index].name for index in sorted(needed(plan))) or "none"
        lines.append(f"  clients select with ?{plan.select.parameter}=; steps that run for every selection: {always}")
    if (compression := plan.response.compression) is not None:
        lines.append(
            f"  compressed with {', '.join(compression.codings)}, from {compression.min_size_bytes} bytes on, for clients that accept it"
        )
    if plan.response.reuse is not None:
        lines.append(f"  responses may be kept {describe_reuse(plan.response.reuse)}")
    return "\n".join(lines)


def explain_rules(source: config.Document) -> str:
    """What is decided before an endpoint is looked for; "" for nothing."""
    lines = [
        f"  {word} {', '.join(networks)}" for word, networks in (("from", source.allow_from), ("not from", source.deny_from)) if networks
    ]
    lines += [f"  {rule.status} if {rule.deny}" for rule in source.rules]
    return "\n".join(["before any endpoint", *lines]) if lines else ""


def _levels(come_before: list[tuple[int, ...]]) -> list[list[int]]:
    """Groups of steps that wait for the same steps, in the order in which they can start."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in order(come_before):
        groups.setdefault(come_before[index], []).append(index)
    return list(groups.values())


def _step(step: StepPlan) -> str:
    marks = [mark for mark, is_set in (("required", step.is_required), ("hidden", step.is_hidden)) if is_set]
    if step.source.when is not None:
        marks.append(f"when {step.source.when}")
    if step.source.fallback is not None:
        marks.append(f"fallback {step.source.fallback}")
    limit = f"at most {_seconds(step.worst_case_s)}" if step.worst_case_s else "until the deadline"
    words = [*marks, *([] if step.each is None else describe_each(step.each)), step.mode.value, *step.operation.marks(), limit]
    return f"{step.name}: {step.operation.explain()}; {', '.join(words)}"


def _against(longest_s: float, deadline_s: float) -> str:
    if not longest_s:
        return f"limited only by the deadline of {_seconds(deadline_s)}"
    verdict = "" if longest_s <= deadline_s + 1e-9 else ", exceeded"
    return f"{_seconds(longest_s)} (deadline {_seconds(deadline_s)}{verdict})"


def _response(plan: EndpointPlan) -> str:
    compiled, response = plan.response, plan.source.response
    status = str(compiled.status) if compiled.status_of is None else f"{compiled.status_of} or {compiled.status}"
    shown = ", ".join(step.name for step in plan.steps if not step.is_hidden)
    parts = [f"{status}, from `body`" if "body" in response.model_fields_set else f"{status}, {response.merge}: {shown}"]
    if compiled.failures is not None:
        parts.append(f"failures under `{compiled.failures.key}`")
    if compiled.passing:
        parts.append(f"failures of {', '.join(sorted(compiled.passing))} as their services answer")
    if fields := [_field(field) for field in compiled.fields]:
        parts.append(f"header fields {', '.join(fields)}")
    return "; ".join(parts)


def _field(field: ResponseField) -> str:
    marks = [] if field.when == "always" else [f"when {field.when}"]
    marks += [] if field.values is None else ["by request"]
    return field.name.decode() + (f" ({', '.join(marks)})" if marks else "")


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:g}s"
