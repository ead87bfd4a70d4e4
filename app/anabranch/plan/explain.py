"""Plans as text: when each step runs, how much of each answer is decoded, the critical path and the deadline, the most upstream calls."""

from collections.abc import Callable

from anabranch.config import model as config
from anabranch.plan.graph import longest_path, order
from anabranch.plan.model import EndpointPlan, StepPlan


def worst_case_s(step: StepPlan, upstream: config.Upstream | None) -> float:
    """The longest a step can take by its own limits, in seconds; 0 when only the deadline limits it. `upstream`: None for a compute step."""
    if step.timeout_s is not None:
        return step.timeout_s
    if upstream is None or upstream.timeout_s is None:
        return 0.0
    retry = upstream.retry
    attempts = retry.attempts if retry is not None and step.is_idempotent else 1
    waits = sum(min(retry.backoff_s * 2**number, retry.max_backoff_s) for number in range(attempts - 1)) if retry is not None else 0.0
    return attempts * upstream.timeout_s + waits


def most_calls(step: StepPlan, upstream: config.Upstream) -> int:
    """The maximum number of exchanges that one run of the step can start."""
    if not step.is_idempotent:
        return 1
    attempts = upstream.retry.attempts if upstream.retry is not None else 1
    return attempts * (2 if upstream.hedge is not None else 1)


def explain(plan: EndpointPlan, upstreams: dict[str, config.Upstream], policies: Callable[[config.Upstream], list[str]]) -> str:
    """The plan of an endpoint in human-readable form. Of an upstream only its name is shown, so no secret can leak."""
    steps = plan.steps
    costs = [worst_case_s(step, upstreams.get(step.upstream)) for step in steps]
    longest, chain = longest_path([step.needs for step in steps], costs)
    calls = sum(most_calls(step, upstreams[step.upstream]) for step in steps if step.compute is None)
    lines = [f"{plan.method} {plan.path}  ({plan.name})", f"  deadline {_seconds(plan.timeout_s)}"]
    for level in _levels(plan):
        waits = sorted({steps[need].name for index in level for need in steps[index].needs})
        lines.append(f"  {'at once' if not waits else 'after ' + ', '.join(waits)}")
        lines += [f"    {_step(steps[index], costs[index])}" for index in level]
    lines.append(f"  critical path {' -> '.join(steps[index].name for index in chain) or 'none'}: {_against(longest, plan.timeout_s)}")
    lines.append(f"  upstream calls: at most {calls}")
    for name in dict.fromkeys(step.upstream for step in steps if step.compute is None):
        lines.append(f"  policies of {name}: {' > '.join(policies(upstreams[name]))}")
    lines.append(f"  response {_response(plan)}")
    return "\n".join(lines)


def _levels(plan: EndpointPlan) -> list[list[int]]:
    """Groups of steps that wait for the same steps, in the order in which they can start."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in order([step.needs for step in plan.steps]):
        groups.setdefault(plan.steps[index].needs, []).append(index)
    return list(groups.values())


def _step(step: StepPlan, worst_s: float) -> str:
    marks = [
        mark
        for mark, is_set in (
            ("required", step.is_required),
            ("hidden", step.is_hidden),
            ("coalesced", step.is_coalesced),
            ("stale if error", step.stale is not None),
        )
        if is_set
    ]
    limit = f"at most {_seconds(worst_s)}" if worst_s else "until the deadline"
    if (compute := step.compute) is not None:
        at_once = f"{compute.limit} at once, " if compute.limit is not None else ""
        return f"{step.name}: {compute.hook} by {compute.kind} in pool {compute.pool}; {', '.join([*marks, step.mode.value])}, {at_once}{limit}"
    return f"{step.name}: {step.method} {step.source.path} at {step.upstream}; {', '.join([*marks, step.mode.value, limit])}"


def _against(longest_s: float, deadline_s: float) -> str:
    if not longest_s:
        return f"limited only by the deadline of {_seconds(deadline_s)}"
    verdict = "" if longest_s <= deadline_s + 1e-9 else ", exceeded"
    return f"{_seconds(longest_s)} (deadline {_seconds(deadline_s)}{verdict})"


def _response(plan: EndpointPlan) -> str:
    response = plan.source.response
    if "body" in response.model_fields_set:
        return f"{plan.response.status}, from `body`"
    shown = ", ".join(step.name for step in plan.steps if not step.is_hidden)
    return f"{plan.response.status}, {response.merge}: {shown}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:g}s"
