"""Computes: a Python function, its pool, and the JSON text of its arguments, compiled."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.jsontext.frame import Frame
from anabranch.plan.judge import JudgePlan, compile_judge
from anabranch.plan.model import HeaderPairs, PoolKind, PoolPlan
from anabranch.plan.operation import OperationPlan, StepContext
from anabranch.plan.reference import TemplateError
from anabranch.plan.template import compile_json

BUILT_IN: Final = ("thread", "process")
_KINDS: Final = (*BUILT_IN, "dask")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePlan:
    """`hook`: `module:function`. `pool`, `kind`: where it runs. `build`: renders the arguments from a frame, as the JSON text of an object;
    raises MissingReference. `lane`: identifies the step among all that use the pool. `limit`: its maximum concurrent jobs; None: as many as
    the pool has workers. `schema`: JSON Schema of the function's result; None when it is unknown. The rest as of `OperationPlan`."""

    hook: str
    pool: str
    kind: PoolKind
    lane: str
    limit: int | None
    build: Callable[[Frame], bytes]
    schema: dict[str, Any] | None = None
    upstream: str = ""
    is_idempotent: bool = True
    worst_case_s: float = 0.0
    most_calls: int = 0
    may_be_left_out: bool = False
    expect: JudgePlan | None = None

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes], reached: HeaderPairs, query: bytes) -> Hashable:
        return self.build(frame)

    def result_schema(self) -> dict[str, Any] | None:
        return self.schema

    def explain(self) -> str:
        return f"{self.hook} by {self.kind} in pool {self.pool}"

    def marks(self) -> list[str]:
        limit = [] if self.limit is None else [f"{self.limit} at once"]
        return [*limit, *([] if self.expect is None else [f"expect {self.expect.holds.__doc__}"])]

    def facts(self) -> dict[str, Any]:
        return {"upstream": None, "compute": self.hook, "executor": self.kind, "pool": self.pool}


def compile(step: config.ComputeStep, context: StepContext) -> ComputePlan | None:  # noqa: A001 - what every kind does
    """Compile a compute step; None when there is a problem, which is reported."""
    arguments = step.input or {}
    context.parse_all(arguments, "input")
    expect = compile_judge(step.expect, "expect", context, has_head=False)
    pool = _pool(step, context)
    if pool is None:
        return None
    checked = context.known.check_hook(step.compute, tuple(arguments), pool[1])
    if checked.fault is not None:
        about = "input" if checked.is_about_input and step.input is not None else "compute"
        value = None if checked.is_about_input else step.compute
        context.report(checked.fault, about, value=value, hint=checked.hint)
        return None
    try:
        build = compile_json(arguments, context.scope.slot, is_strict=True)
    except TemplateError:
        return None  # reported by the scope
    return ComputePlan(
        hook=step.compute,
        pool=pool[0],
        kind=pool[1],
        lane=f"{context.endpoint_name}.{context.name}",
        limit=step.concurrency,
        build=build,
        schema=checked.result_schema,
        expect=expect,
    )


def check_backends(backends: Mapping[str, config.ComputeBackend], problems: Problems) -> None:
    """Report backends that have the name of one kind but are of another."""
    for name, backend in backends.items():
        if name in _KINDS and backend.kind != name:
            problems.add(("compute_backends", name), f"a backend called `{name}` must have `kind: {name}`", at_key=True)


def pools_of(operations: Iterable[OperationPlan], backends: Mapping[str, config.ComputeBackend]) -> dict[str, PoolPlan]:
    """The pools that the compute steps among these use, with the hooks of each. Unused pools are left out."""
    plans = [operation for operation in operations if isinstance(operation, ComputePlan)]
    hooks: dict[str, dict[str, None]] = {}
    for plan in plans:
        hooks.setdefault(plan.pool, {})[plan.hook] = None
    kinds = {plan.pool: plan.kind for plan in plans}
    return {
        name: PoolPlan(name=name, backend=backends.get(name) or config.ComputeBackend(kind=kinds[name]), hooks=tuple(used))
        for name, used in hooks.items()
    }


def _pool(step: config.ComputeStep, context: StepContext) -> tuple[str, PoolKind] | None:
    """Name and kind of the step's pool. None when there is no such pool; the problem is reported unless the backend itself is broken."""
    backends = context.known.backends
    if step.pool is not None:
        backend = backends.get(step.pool)
        is_broken = context.known.is_broken("compute_backends", step.pool)
        if backend is None and not is_broken and step.pool in BUILT_IN:
            backend = config.ComputeBackend(kind="thread" if step.pool == "thread" else "process")
        if backend is None:
            if not is_broken:
                hint = context.known.hint("compute backends", "compute_backends", step.pool, backends)
                context.report(f"unknown compute backend `{step.pool}`", "pool", hint=hint)
            return None
        if step.executor is not None and step.executor != backend.kind:
            message = f"the pool `{step.pool}` is of kind {backend.kind}, not {step.executor}"
            context.report(message, "executor", hint="remove `executor`: the pool determines it")
            return None
        return step.pool, backend.kind
    kind = step.executor or "thread"
    for name, backend in backends.items():
        if backend.kind == kind:
            return name, kind
    if kind == "dask":
        hint = "add one: `compute_backends: {cluster: {kind: dask, address: tcp://...}}`"
        context.report("`executor: dask` needs a compute backend of that kind", "executor", hint=hint)
        return None
    return kind, kind
