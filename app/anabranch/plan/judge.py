"""Compiles `expect` and `until`: conditions on what a step got, before it is shaped. Only what a condition refers to is read."""

from collections.abc import Callable
from dataclasses import dataclass

from anabranch.errors import MissingExtraError
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.order import Reading, reading
from anabranch.jsontext.shape import Shape, choose_mode, compile_reader
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.operation import StepContext
from anabranch.plan.reference import SOFT, VALUE, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """`holds`: whether the condition holds for a frame that `read` and `metadata` have filled; raises ConditionFailed. `metadata`: what it refers to of the
    answer's head, as in `StepPlan`. `read`, `reading`, `large_from`: as of `StepPlan`; used only if `reads_body`. `name`: of the step."""

    name: str
    holds: Condition
    metadata: tuple[tuple[str, str, int], ...]
    reads_body: bool
    read: Callable[[bytes, Frame], bytes]
    reading: Reading | None
    large_from: int


def compile_judge(text: str | None, key: str, context: StepContext, *, has_head: bool) -> JudgePlan | None:
    """The condition at `key` of a step; None without one, and when something is wrong, which is reported. `has_head`: what it judges has a status and header
    fields."""
    if text is None:
        return None
    template = context.parse(text, key, local=context.local | {VALUE})
    own = [part for part in template if isinstance(part, Reference) and part.root == VALUE]
    for part in template:
        if isinstance(part, Reference) and part.is_nullable:
            context.report(f"`?` has no effect in {part}: a reference without a value is null here", key)
    for part in own:
        if part.meta in SOFT:
            context.report(f"{part} is not known here: it depends on what `{key}` says", key, value=text)
        elif part.meta and not has_head:
            context.report(f"{part} never has a value: a function's result has no status and no header fields", key, value=text)
    if not template and text:
        return None  # reported by the scope
    slot_of = context.scope.slot
    try:
        holds = compile_condition(text, template, slot_of)
    except (ConditionError, MissingExtraError) as error:
        context.report(str(error), key, value=text)
        return None
    if not own and all(part.root != context.name for part in template if isinstance(part, Reference)):
        context.report(f"nothing in `{key}` refers to the answer: {{value...}}{', {$status}' if has_head else ''}", key, value=text)
    slots = [(part.path, slot_of(part)) for part in dict.fromkeys(own) if not part.meta]
    mode = choose_mode(Shape(), slots)
    offloaded = reading(Shape(), slots, mode)
    return JudgePlan(
        name=context.name,
        holds=holds,
        metadata=tuple((part.meta, part.path[0] if part.path else "", slot_of(part)) for part in dict.fromkeys(own) if part.meta),
        reads_body=bool(slots),
        read=compile_reader(Shape(), slots, mode),
        reading=offloaded,
        large_from=offloaded.from_bytes,
    )
