"""Compiles one step in two passes: what it does and needs (`StepDraft`), then, when all slots are known, its `StepPlan`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from anabranch.config import model as config
from anabranch.config.problems import did_you_mean
from anabranch.errors import MissingExtraError
from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.order import MERGE_FROM, PLAIN_FROM, reading
from anabranch.jsontext.path import parse_path
from anabranch.jsontext.shape import DecodeMode, Shape, Slots, choose_mode, compile_reader
from anabranch.jsontext.values import write
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.each import EachDraft, draft_each, plan_each, run_shape
from anabranch.plan.into import check_into
from anabranch.plan.kinds import compile_operation
from anabranch.plan.model import StepPlan
from anabranch.plan.operation import OperationPlan, StepContext
from anabranch.plan.reference import ITEM, Reference, Template
from anabranch.plan.scope import Scope
from anabranch.plan.stand_ins import StandIns


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDraft:
    """A step after the first pass. `operation`: None after a problem, which was reported. `needs`: names of the steps whose values it refers to.
    `after`: of those that have to be settled before it, whatever becomes of them. `may_be_left_out`: for a reason of its own. `is_when_of_items`: the condition is
    one for each element, and not for the whole step."""

    name: str
    source: config.Step
    operation: OperationPlan | None
    when: Condition | None
    is_when_of_items: bool = False
    each: EachDraft | None = None
    needs: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)
    may_be_left_out: bool = False


def draft_step(step: config.Step, context: StepContext) -> StepDraft:
    """The first pass. Every problem is reported, none stops it."""
    is_when_of_items = step.each is not None and step.when is not None and f"{{{ITEM}" in step.when
    when = None if step.when is None else _condition(step.when, context)
    each = draft_each(step, context)
    if each is not None and step.join is not None:
        check_into(step.join, each.reference, context)
    operation = compile_operation(step, context)
    draft_needs(step, context)
    is_nullable = any(reference.is_nullable for reference in context.scope.references_of(context.name))
    return StepDraft(
        name=context.name,
        source=step,
        operation=operation,
        when=when,
        is_when_of_items=is_when_of_items,
        each=each,
        needs=context.needs,
        after=context.after,
        may_be_left_out=(step.when is not None and not is_when_of_items)
        or is_nullable
        or (operation is not None and operation.may_be_left_out),
    )


def draft_needs(step: config.Step, context: StepContext) -> None:
    """Add the steps that `needs` names to those that come before, and report names that have no effect there."""
    steps = context.endpoint.steps
    for index, name in enumerate(step.needs):
        if name == context.name:
            context.report("a step cannot wait for itself", "needs", index, value=name)
        elif name not in steps:
            if (*context.at[:-1], name) not in context.known.broken:
                context.report(f"unknown step `{name}`", "needs", index, value=name, hint=did_you_mean(name, list(steps)))
        elif name in step.needs[:index]:
            context.report(f"`{name}` is in the list twice", "needs", index, value=name)
        elif name in context.needs | context.after:
            context.report(f"the step refers to `{name}`, so it waits for it anyway", "needs", index, value=name, hint="remove the name")
    context.after.update(name for name in step.needs if name in steps and name not in context.needs)


def _condition(text: str, context: StepContext) -> Condition | None:
    template = context.parse(text, "when", local=() if context.local == frozenset() else (ITEM,))
    report_nullable(template, lambda message: context.report(message, "when"))
    if not template and text:
        return None  # reported by the scope
    try:
        return compile_condition(text, template, context.scope.slot)
    except (ConditionError, MissingExtraError) as error:
        context.report(str(error), "when", value=text)
        return None


def report_nullable(template: Template, report: Callable[[str], None]) -> None:
    """Report the references with `?` of a template that needs no values."""
    for part in template:
        if isinstance(part, Reference) and part.is_nullable:
            report(f"`?` has no effect in {part}: a reference without a value is null here")


def shape_of(step: config.Step, *, must_be: str) -> Shape:
    return Shape(
        target=parse_path(step.target) if step.target is not None else (),
        pick=raw.tree(step.pick) if step.pick is not None else None,
        drop=raw.tree(step.drop) if step.drop is not None else None,
        rename=raw.rename_tree(step.rename) if step.rename else None,
        wrap=step.wrap,
        must_be="" if step.is_hidden else must_be,
    )


def plan_step(
    draft: StepDraft,
    index: int,
    *,
    names: list[str],
    dependents: list[int],
    scope: Scope,
    must_be: str,
    may_be_left_out: bool,
    stand_ins: StandIns,
) -> StepPlan:
    """The second pass, when all slots are known."""
    step = draft.source
    assert draft.operation is not None, "a document with problems has no plan"
    slots = scope.slots_of(draft.name)
    shape = shape_of(step, must_be=must_be) if step.each is None else run_shape(step)
    default = write(step.default if step.each is None else None)
    fill_default = None
    if step.has_default:
        fill = compile_reader(Shape(), slots, DecodeMode.FULL)

        def fill_default(frame: Frame) -> None:
            fill(default, frame)

    needs = sorted(names.index(need) for need in draft.needs | draft.after if need in names)
    plan = StepPlan(
        index=index,
        name=draft.name,
        operation=draft.operation,
        when=None if draft.is_when_of_items else draft.when,
        is_required=step.required,
        is_hidden=step.is_hidden,
        needs=tuple(needs),
        only_after=frozenset(need for need in needs if names[need] not in draft.needs),
        dependents=tuple(dependents),
        timeout_s=step.timeout_s,
        **_reading(shape, slots if step.each is None else [], must_be=must_be),
        default=default,
        fill_default=fill_default,
        source=step,
        references=scope.references_of(draft.name),
        metadata=scope.metadata_of(draft.name),
        may_be_left_out=may_be_left_out,
        fallback=-1 if step.fallback is None else names.index(step.fallback),
        members=tuple(names.index(name) for name in step.any_) if isinstance(step, config.FirstStep) else (),
        stand_in=None if step.fallback is None else compile_reader(Shape(must_be="" if step.is_hidden else must_be), slots),
        asks=tuple(names.index(name) for name in stand_ins.asks[draft.name]),
        is_on_demand=draft.name in stand_ins.on_demand,
        is_only_stand_in=draft.name in stand_ins.only,
        has_stand_in_role=bool(step.stand_ins) or draft.name in stand_ins.named,
    )
    if draft.each is None:
        return plan
    item = replace(plan, when=None, timeout_s=None, metadata=())
    each = plan_each(step, draft.each, item, draft.when if draft.is_when_of_items else None, scope)
    whole = Shape(wrap=step.wrap, must_be="" if step.is_hidden else must_be)
    is_read = bool(slots) or not whole.is_plain or whole.must_be == "object"
    return replace(plan, each=each, **(_reading(whole, slots, must_be=must_be) if is_read else {"read": _as_it_is}))


def _as_it_is(value: bytes, _frame: Frame) -> bytes:
    """Results that were read one by one need not be read again."""
    return value


def _reading(shape: Shape, slots: Slots, *, must_be: str) -> dict[str, Any]:
    """How an answer is read: the fields of a step's plan that say so."""
    mode = choose_mode(shape, slots)
    offloaded = reading(shape, slots, mode)
    return {
        "mode": mode,
        "read": compile_reader(shape, slots, mode),
        "reading": offloaded,
        "large_from": min(offloaded.from_bytes, MERGE_FROM // 2 if must_be == "object" else PLAIN_FROM),
    }
