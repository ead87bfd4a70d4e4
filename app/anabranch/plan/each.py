"""Compiles `each`: a step that runs once for every element of an array, one element at a time or many at once (`batch`)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from anabranch.config import model as config
from anabranch.config.units import format_duration
from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame, Value
from anabranch.jsontext.path import parse_path, path_text
from anabranch.jsontext.project import Row, table
from anabranch.jsontext.shape import Shape, Slots, compile_filler, compile_reader
from anabranch.jsontext.values import write
from anabranch.plan.operation import StepContext
from anabranch.plan.parameters import type_of
from anabranch.plan.reference import BATCH, ITEM, ROOTS, Reference, Template, TemplateError, is_whole, parse
from anabranch.plan.schema import SchemaError
from anabranch.plan.scope import Scope
from anabranch.plan.template import nothing, parts_of, render_text
from anabranch.plan.value import BRACKET, QUOTE, as_json, as_text, is_null

if TYPE_CHECKING:
    from anabranch.plan.condition import Condition
    from anabranch.plan.model import StepPlan

Fill = Callable[[bytes, Frame], object]
"""Fills the slots of a frame from JSON text that is known to be valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """`size`: most keys of one call. `window_s`: how long a call waits for the keys of other requests; None: not at all. `fill`: puts the JSON text of the keys into the frame of a call. `keys`: the key of each element of an answer, from the JSON text of an array. `match`: its
    path. `shape`: the value out of one of them; raises InvalidJSON and ShapeError. None: the element itself."""

    size: int
    at_once: int
    window_s: float | None
    match: tuple[str, ...]
    fill: Fill
    keys: Callable[[bytes], list[Row]]
    shape: Callable[[bytes, Frame], bytes] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EachPlan:
    """`items`: the JSON text of the array; raises MissingReference and LeftOut. `source`: the reference to the array, as written.
    `rows`: what the templates need of each element, in the order of `slots`. `item`: the step as it runs for one element, or for one batch. `when`: for which elements it runs; None: all. `key`: what makes
    elements the same; None: none are. `key_column`: where the rows have it; -1: it has to be rendered. `is_required`: the first failed element fails the step. `default`: JSON text in place of a failed one.
    """

    items: Callable[[Frame], bytes]
    source: str
    most: int
    is_truncated: bool
    at_once: int
    rows: Callable[[bytes], list[Row]]
    slots: tuple[int, ...]
    item: "StepPlan"
    when: "Condition | None"
    key: Callable[[Frame], Value] | None
    key_column: int
    batch: BatchPlan | None
    is_required: bool
    default: bytes

    @property
    def most_runs(self) -> int:
        """The most runs for one request."""
        return self.most if self.batch is None else ceil(self.most / self.batch.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class EachDraft:
    """What the first pass finds out. `reference`: to the array. `key_slot`: of a key that is one reference to the element; None: it is more than that."""

    reference: Reference
    items: Callable[[Frame], bytes]
    key: Callable[[Frame], Value] | None
    key_slot: int | None


def local_roots(step: config.Step, *, is_batch_broken: bool) -> frozenset[str]:
    """The roots that the templates of the operation know. `is_batch_broken`: the step had a `batch` that was rejected, which has been reported."""
    if step.each is None:
        return frozenset()
    if is_batch_broken:
        return frozenset({ITEM, BATCH})
    return frozenset({ITEM if step.batch is None else BATCH})


def draft_each(step: config.Step, context: StepContext) -> EachDraft | None:
    """The first pass; None without `each`, and when something is wrong, which is reported."""
    if step.each is None:
        return None
    template = context.parse(step.each, "each", local=())
    if template and not is_whole(template):
        context.report("`each` must be one reference to an array, such as {orders.items}", "each", value=step.each)
    key_text, where = (step.distinct, ("distinct",)) if step.batch is None else (step.batch.key, ("batch", "key"))
    key = key_slot = None
    if key_text is not None:
        parsed = context.parse(key_text, *where, local=(ITEM,))
        if parsed and not any(isinstance(part, Reference) and part.root == ITEM for part in parsed):
            context.report("a key must refer to the element: {item.id}", *where, value=key_text)
        key = _key(parsed, context) if parsed else None
        if is_whole(parsed) and isinstance(parsed[0], Reference):
            key_slot = context.scope.slot(parsed[0])
    if step.batch is not None and step.batch.window_s is not None:
        rule = context.endpoint.journal
        if isinstance(rule, config.JournalRule) and rule.bodies == "steps":
            message = "a call for several requests cannot be in the record of one, and `journal: {bodies: steps}` keeps the calls of each"
            context.report(message, "batch", "window")
    root, what = (ITEM, "the element that a run is for") if step.batch is None else (BATCH, "the keys that a run asks for")
    is_batch_broken = context.known.is_broken(*context.at, "batch")
    if not is_batch_broken and not _refers_to(step, step.templates - {"each", "distinct", "batch"}, root):
        context.report(
            f"nothing refers to {{{root}}}, {what}: every run would be the same", "each" if root == ITEM else "batch", at_key=True
        )
    reference = template[0] if template else None
    if isinstance(reference, Reference) and (kind := _scalar(reference, context)):
        context.report(
            f"{reference} is a parameter of type {kind}, and `each` needs an array", "each", hint="declare it with `type: array`"
        )
    if not isinstance(reference, Reference):
        return None
    return EachDraft(reference=reference, items=array_of(context.scope.slot(reference), str(reference)), key=key, key_slot=key_slot)


def _scalar(reference: Reference, context: StepContext) -> str:
    """The type of the parameter that a reference names, if it is never an array; "" otherwise."""
    if reference.root not in ROOTS or reference.root == "body" or not reference.path:
        return ""
    name = reference.path[0]
    declared = context.endpoint.parameters
    found = next((value for key, value in declared.items() if key == name or (value.in_ == "header" and key.lower() == name.lower())), None)
    try:
        kind = "string" if found is None else type_of(found.schema_)
    except SchemaError:
        return ""  # reported with the parameter
    return "" if kind == "array" else kind


def _refers_to(step: config.Step, keys: frozenset[str], root: str) -> bool:
    return any(part.root == root for key in keys for part in _references(getattr(step, key)))


def _references(node: Any) -> list[Reference]:
    if isinstance(node, str):
        try:
            return [part for part in parse(node) if isinstance(part, Reference)]
        except TemplateError:
            return []
    if isinstance(node, config.QueryValue):
        return _references(node.value)
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [found for inner in below for found in _references(inner)]


def array_of(slot: int, source: str) -> Callable[[Frame], bytes]:
    """The JSON text of the array in a slot; raises MissingReference and LeftOut. `source`: the reference, as written."""

    def items(frame: Frame) -> bytes:
        value = frame[slot]
        if type(value) is bytes and value[0] == BRACKET:
            return value
        if type(value) is list:
            return as_json(value)
        raise nothing(source, "has no value" if is_null(value) else "is not an array")

    return items


def _key(template: Template, context: StepContext) -> Callable[[Frame], Value]:
    """The value by which elements are the same: JSON text, or the text of a longer template."""
    only = template[0] if is_whole(template) else None
    if not isinstance(only, Reference):
        return render_text(parts_of(template, context.scope.slot))
    slot, source = context.scope.slot(only), str(only)

    def key(frame: Frame) -> Value:
        value: Value = frame[slot]
        if is_null(value):
            raise nothing(source)
        return value

    return key


def plan_each(step: config.Step, draft: EachDraft, item: "StepPlan", when: "Condition | None", scope: Scope) -> EachPlan:
    """The second pass. `item`: the step as it runs for one element, or for one batch. `when`: for which elements."""
    batch = step.batch
    slots = _slots(ITEM, item, scope)
    shape = replace(element_shape(step), target=())
    return EachPlan(
        items=draft.items,
        source=str(draft.reference),
        most=step.max_items,
        is_truncated=step.truncate,
        at_once=step.at_once,
        rows=table([path for path, _ in slots]),
        slots=tuple(slot for _, slot in slots),
        item=item,
        when=when,
        key=draft.key,
        key_column=next((column for column, (_, slot) in enumerate(slots) if slot == draft.key_slot), -1),
        batch=None
        if batch is None
        else BatchPlan(
            size=batch.size,
            at_once=batch.at_once,
            window_s=batch.window_s,
            match=parse_path(batch.match),
            fill=compile_filler(_slots(BATCH, item, scope)),
            keys=table([parse_path(batch.match)]),
            shape=None if shape.is_plain else compile_reader(shape, []),
        ),
        is_required=step.required,
        default=write(step.default),
    )


def _slots(root: str, step: "StepPlan", scope: Scope) -> Slots:
    """The slots of what the step refers to below a root."""
    found = {scope.slot(part): part.path for part in step.references if part.root == root}
    return [(path, slot) for slot, path in found.items()]


def plain_key(value: Value) -> bytes:
    """The bytes by which keys are compared: `17` and `"17"` are the same."""
    text = value if type(value) is bytes else as_json(value)
    if text[0] != QUOTE:
        return text
    return text[1:-1] if b"\\" not in text else (as_text(text) or "").encode()


def describe_each(plan: EachPlan) -> list[str]:
    """Words for people about how often the step runs."""
    words = [f"for each of {plan.source}, at most {plan.most}"]
    if plan.batch is not None:
        words.append(f"{plan.batch.size} in one call matched by {path_text(plan.batch.match)}")
        words += [f"with other requests within {format_duration(plan.batch.window_s)}"] if plan.batch.window_s is not None else []
    words.append(f"{plan.at_once if plan.batch is None else plan.batch.at_once} at once")
    return words


def element_shape(step: config.Step) -> Shape:
    """How each result of a step with `each` is shaped: `wrap` is for all of them together."""
    return Shape(
        target=parse_path(step.target) if step.target is not None else (),
        pick=raw.tree(step.pick) if step.pick is not None else None,
        drop=raw.tree(step.drop) if step.drop is not None else None,
        rename=raw.rename_tree(step.rename) if step.rename else None,
    )


def run_shape(step: config.Step) -> Shape:
    """How the answer of one run is shaped: of a batch, its elements are shaped when they are found."""
    shape = element_shape(step)
    return shape if step.batch is None else Shape(target=shape.target)
