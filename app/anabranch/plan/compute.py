"""Compiles compute steps: the function, its pool, and the JSON text of its arguments.

Must not import the user's code: the caller passes a `CheckHook` that checks whether a function exists and accepts its arguments.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems, did_you_mean
from anabranch.plan.model import ComputePlan, PoolKind, PoolPlan
from anabranch.plan.reference import TemplateError, strings
from anabranch.plan.scope import Path, Scope
from anabranch.plan.template import compile_json

BUILT_IN: Final = ("thread", "process")
_KINDS: Final = (*BUILT_IN, "dask")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCheck:
    """Result of checking a hook. `fault`: why it cannot be used; None when it can. `is_about_input`: the arguments are wrong, not the hook.

    `result_schema`: JSON Schema of the return annotation; None when there is no schema.
    """

    fault: str | None = None
    hint: str = ""
    is_about_input: bool = False
    result_schema: dict[str, Any] | None = None


CheckHook = Callable[[str, tuple[str, ...], PoolKind], HookCheck]
"""Checks a hook, given its name, the names of the step's arguments, and the kind of the pool."""


def trust_hook(_hook: str, _arguments: tuple[str, ...], _kind: PoolKind) -> HookCheck:
    """Accept every hook without checking it."""
    return HookCheck()


def compile_compute(
    name: str, step: config.Step, *, endpoint: str, backends: Mapping[str, config.ComputeBackend], broken_backends: Collection[str],
    scope: Scope, problems: Problems, at: Path, check_hook: CheckHook, needs: set[str],
) -> ComputePlan | None:  # fmt: skip
    """Compile one compute step; None when there is a problem. Adds the steps that its input refers to to `needs`."""
    assert step.compute is not None
    given = step.input or {}
    for where, text in strings(given):
        scope.parse(text, (*at, "input", *where), user=name, needs=needs)
    pool = _pool(step, backends, broken_backends, problems, at)
    if pool is None:
        return None
    checked = check_hook(step.compute, tuple(given), pool[1])
    if checked.fault is not None:
        about = "input" if checked.is_about_input and step.input is not None else "compute"
        value = None if checked.is_about_input else step.compute
        problems.add((*at, about), checked.fault, value=value, hint=checked.hint)
        return None
    try:
        build = compile_json(given, scope.slot, is_strict=True)
    except TemplateError:
        return None  # reported by the scope
    return ComputePlan(
        hook=step.compute,
        pool=pool[0],
        kind=pool[1],
        lane=f"{endpoint}.{name}",
        limit=step.concurrency,
        build=build,
        result_schema=checked.result_schema,
    )


def check_backends(backends: Mapping[str, config.ComputeBackend], problems: Problems) -> None:
    """Report backends that have the name of one kind but are of another."""
    for name, backend in backends.items():
        if name in _KINDS and backend.kind != name:
            problems.add(("compute_backends", name), f"a backend called `{name}` must have `kind: {name}`", at_key=True)


def pools_of(plans: Collection[ComputePlan], backends: Mapping[str, config.ComputeBackend]) -> dict[str, PoolPlan]:
    """The pools that compute steps use, with the hooks of each. Unused pools are left out."""
    hooks: dict[str, dict[str, None]] = {}
    for plan in plans:
        hooks.setdefault(plan.pool, {})[plan.hook] = None
    kinds = {plan.pool: plan.kind for plan in plans}
    return {
        name: PoolPlan(name=name, backend=backends.get(name) or config.ComputeBackend(kind=kinds[name]), hooks=tuple(used))
        for name, used in hooks.items()
    }


def _pool(
    step: config.Step, backends: Mapping[str, config.ComputeBackend], broken: Collection[str], problems: Problems, at: Path
) -> tuple[str, PoolKind] | None:
    """Name and kind of the step's pool. None when there is no such pool; the problem is reported unless the backend itself is broken."""
    if step.pool is not None:
        backend = backends.get(step.pool)
        if backend is None and step.pool not in broken and step.pool in BUILT_IN:
            backend = config.ComputeBackend(kind="thread" if step.pool == "thread" else "process")
        if backend is None:
            if step.pool not in broken:
                known = [*backends, *broken]
                hint = did_you_mean(step.pool, known) or f"known compute backends: {', '.join(known) or 'none'}"
                problems.add((*at, "pool"), f"unknown compute backend `{step.pool}`", hint=hint)
            return None
        if step.executor is not None and step.executor != backend.kind:
            message = f"the pool `{step.pool}` is of kind {backend.kind}, not {step.executor}"
            problems.add((*at, "executor"), message, hint="remove `executor`: the pool determines it")
            return None
        return step.pool, backend.kind
    kind = step.executor or "thread"
    for name, backend in backends.items():
        if backend.kind == kind:
            return name, kind
    if kind == "dask":
        hint = "add one: `compute_backends: {cluster: {kind: dask, address: tcp://...}}`"
        problems.add((*at, "executor"), "`executor: dask` needs a compute backend of that kind", hint=hint)
        return None
    return kind, kind
