"""Selections of clients: the parameter that carries one, and the plan of an endpoint pruned to what is selected.

A pruned plan has the steps and slots of the whole plan under the same indexes. A step that nothing selected needs is in no `ready` and in no
`dependents`, so it never starts. The values of the others are reduced where they are decoded, as far as nothing else refers to them, and what is
left over is removed from the merged response. The response is what `pick` with the same paths makes of the whole one.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import did_you_mean
from anabranch.jsontext import merge, raw, select
from anabranch.jsontext.frame import MISSING, Missing
from anabranch.jsontext.order import PLAIN_FROM, reading
from anabranch.jsontext.path import ANY, parse_path
from anabranch.jsontext.select import Selection
from anabranch.jsontext.shape import DecodeMode, Shape, choose_mode, compile_reader
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.merging import assemble_steps, merge_order
from anabranch.plan.model import EndpointPlan, FailuresRule, ParameterPlan, ResponsePlan, SelectPlan, StepPlan
from anabranch.plan.reference import Reference, TemplateError, parse, strings
from anabranch.plan.scope import Scope
from anabranch.plan.step import shape_of
from anabranch.plan.template import compile_json

MOST_KEPT: Final = 64
"""Selections of one endpoint that are kept ready, the last used ones."""
_LISTED: Final = 12
_MOST_COMPILED: Final = 16
"""Branches of a selection that is compiled. Each one takes about 0.1 ms."""
_SAFE: Final = ("GET", "HEAD", "OPTIONS")


# ------------------------------------------------------------------------------------------------------------ parameter


def compile_select(
    endpoint: config.Endpoint, scope: Scope, failures: FailuresRule | None, report: Callable[[str], None]
) -> tuple[SelectPlan, ParameterPlan] | None:
    """How clients of an endpoint select, and the parameter for it; None when they cannot. `failures`: how the response shows them. `report`: takes a
    problem with the parameter."""
    response = endpoint.response
    if response.select is None:
        return None
    name = response.select.parameter
    if any(parameter.in_ == "query" and other == name for other, parameter in endpoint.parameters.items()):
        report(f"the endpoint already has a query parameter `{name}`; a selection needs one of its own")
    references = {reference: scope.slot(reference) for reference in _references(response.body)}
    names = _names(endpoint)
    if names is not None and failures is not None:
        names = (*names, failures.key)
    has_parts = bool(names) if names is not None else "body" not in response.model_fields_set or bool(references)
    if not has_parts:
        report("the response has no parts that a client could select")
    slot = scope.slot(Reference("query", (name,)))
    parameter = ParameterPlan(
        name=name, location="query", is_required=False, default=MISSING, slot=slot, read=_reader(names), source=_described(endpoint, names)
    )
    beside = frozenset(reference.root for reference in _references(response.model_dump(exclude={"body", "select"})))
    return SelectPlan(parameter=name, slot=slot, names=names, references=references, beside=beside), parameter


def _reader(names: tuple[str, ...] | None) -> Callable[[list[str]], Any]:
    """Reads the texts that the client sent to a Selection, or to MISSING when that is everything. It raises ValueError."""

    @lru_cache(maxsize=2 * MOST_KEPT)
    def read(texts: tuple[str, ...]) -> Selection | Missing:
        selection = select.parse(texts)
        if names is not None:
            _check_names(selection, names)
        return selection if selection.tree else MISSING

    return lambda texts: read(tuple(texts))


def _check_names(selection: Selection, names: tuple[str, ...]) -> None:
    for name in selection.tree:
        if name not in names:
            raise select.fault(selection.places[name], f"the response has nothing of this name; {_proposal(name, names)}")


def _proposal(name: str, names: tuple[str, ...]) -> str:
    if hint := did_you_mean(name, names):
        return hint
    listed = ", ".join(f"`{known}`" for known in names[:_LISTED])
    return f"it has {listed}" + (", ..." if len(names) > _LISTED else "")


def _names(endpoint: config.Endpoint) -> tuple[str, ...] | None:
    """The members that the response can have; None when they are not known."""
    response = endpoint.response
    if "body" in response.model_fields_set:
        return tuple(map(str, response.body)) if isinstance(response.body, dict) else None
    visible = [name for name, step in endpoint.steps.items() if not step.is_hidden]
    if response.merge == "group":
        return tuple(visible)
    known = [_members(endpoint.steps[name]) for name in visible]
    return None if None in known else tuple(dict.fromkeys(name for names in known if names is not None for name in names))


def _members(step: config.Step) -> tuple[str, ...] | None:
    """The members that the value of a step can have if it is an object; None when they are not known."""
    if step.wrap is not None:
        names = [step.wrap]
    elif step.pick is not None:
        names = [parse_path(text)[0] for text in step.pick]
        new = {parse_path(old): parse_path(name)[0] for old, name in (step.rename or {}).items()}
        names = [new.get((name,), name) for name in names]
    else:
        return None
    return tuple(dict.fromkeys([*names, *(step.default if isinstance(step.default, dict) else ())]))


def _described(endpoint: config.Endpoint, names: tuple[str, ...] | None) -> config.Parameter:
    description = (
        "Selects parts of the response. Names are separated by commas; a dot or parentheses go a level down, and into every element of an array. A name with "
        "a special character stands in double quotes, and `*` is everything. Without this parameter, the response is whole."
    )
    if names:
        description += f" It has {', '.join(f'`{name}`' for name in names)}."
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": select.MOST_CHARS, "pattern": select.PATTERN}
    if names:
        schema["examples"] = [_example(endpoint, names)]
    return config.Parameter.model_validate({"in": "query", "schema": schema, "description": description})


def _example(endpoint: config.Endpoint, names: tuple[str, ...]) -> str:
    """Two names, the first one with what its step picks."""
    first, *others = names[:2]
    step = endpoint.steps.get(first)
    if step is not None and step.pick is not None and step.wrap is None and step.rename is None:
        first += f"({','.join(step.pick[:2])})"
    return ",".join([first, *others])


# ----------------------------------------------------------------------------------------------------------------- plan


def prune(plan: EndpointPlan, selection: Selection, *, is_projected: bool) -> EndpointPlan:
    """The plan of what is selected. `is_projected`: compile the projections, which takes up to milliseconds and makes each reading cheaper; a selection with
    very many branches is read level by level all the same."""
    is_projected = is_projected and _branches(selection.tree) <= _MOST_COMPILED
    shown, response = _response(plan, selection.tree, is_projected=is_projected)
    is_grouped = "body" not in plan.source.response.model_fields_set and plan.source.response.merge == "group"
    wanted = _with_joined(plan, {index: selection.tree[plan.steps[index].name] if is_grouped else selection.tree for index in shown})
    running = needed(plan, wanted)
    referred = {reference.root for index in running for reference in plan.steps[index].references if not reference.meta}
    referred |= _select(plan).beside
    reducible = [index for index in shown if is_grouped and plan.steps[index].name not in referred]
    steps = [_among(step, running) for step in plan.steps]
    for index in reducible:
        steps[index] = _reduced(steps[index], wanted[index], is_projected=is_projected)
    return replace(
        plan,
        steps=tuple(steps),
        ready=tuple(index for index in plan.ready if index in running),
        response=response,
        joins=tuple(join for join in plan.joins if join.source in wanted and join.target in wanted),
        unselected=frozenset(step.name for step in steps if step.index not in running),
    )


def _among(step: StepPlan, running: frozenset[int]) -> StepPlan:
    """The step where only those in `running` can start after it."""
    dependents = tuple(index for index in step.dependents if index in running)
    asks = step.asks if step.index in running else ()
    return step if (dependents, asks) == (step.dependents, step.asks) else replace(step, dependents=dependents, asks=asks)


def _branches(tree: raw.Tree) -> int:
    """The number of nodes that are no leaves."""
    return 1 + sum(_branches(below) for below in tree.values()) if tree else 0


def _with_joined(plan: EndpointPlan, wanted: dict[int, raw.Tree]) -> dict[int, raw.Tree]:
    """What is selected of each step's value: of those in `wanted`, and of those whose results go into a selected place of these."""
    is_body = "body" in plan.source.response.model_fields_set
    for join in reversed(plan.joins):
        if join.target in wanted:
            place = (*(name for name in join.path if name != ANY), join.key)
            tree = _below({} if is_body else wanted[join.target], place)
            if tree is not None:
                wanted[join.source] = tree
    return wanted


def _below(tree: raw.Tree, path: Iterable[str]) -> raw.Tree | None:
    """What is selected of the value at `path`; None when it is not selected."""
    for name in path:
        if not tree:
            break
        if name not in tree:
            return None
        tree = tree[name]
    return tree


def needed(plan: EndpointPlan, shown: Iterable[int] = ()) -> frozenset[int]:
    """The steps that run when these are shown: they, those that always run, and what all of these need.

    A required step guards the response, and a call that may change something is not made for its value alone: both always run. So does what other
    parts of the response than its body refer to.
    """
    beside = _select(plan).beside
    pending = [*shown, *(step.index for step in plan.steps if step.is_required or step.name in beside or _has_effect(step))]
    # A step that runs only when it is asked for needs those that may ask, where something refers to it.
    pending += [asker.index for index in pending for asker in plan.steps if index in asker.asks]
    running: set[int] = set()
    while pending:
        index = pending.pop()
        if index not in running:
            running.add(index)
            step = plan.steps[index]
            pending += step.needs
            pending += step.members
            pending += [step.fallback] if step.fallback >= 0 else []
            pending += [asker.index for need in step.needs if plan.steps[need].is_on_demand for asker in plan.steps if need in asker.asks]
    return frozenset(running)


def _select(plan: EndpointPlan) -> SelectPlan:
    assert plan.select is not None, "clients cannot select"
    return plan.select


def _has_effect(step: StepPlan) -> bool:
    operation = step.operation
    if not isinstance(operation, CallPlan) or operation.method in _SAFE:
        return False
    if step.is_on_demand:
        return False  # the step that asks for it decides
    return not (isinstance(step.source, config.CallStep) and step.source.idempotent and operation.method == "POST")


def _references(node: Any) -> set[Reference]:
    """All references in the templates of a JSON value. What is no template has none."""
    found: set[Reference] = set()
    for _, text in strings(node):
        try:
            found.update(part for part in parse(text) if isinstance(part, Reference))
        except TemplateError:
            continue  # fixed text, or reported where it is compiled
    return found


def _response(plan: EndpointPlan, tree: raw.Tree, *, is_projected: bool) -> tuple[frozenset[int], ResponsePlan]:
    """The steps that the selected response shows, and how it is built."""
    source = plan.source.response
    if "body" in source.model_fields_set:
        return _of_template(plan, tree, is_projected=is_projected)
    visible = [step for step in plan.steps if not step.is_hidden]
    pick: raw.Tree | None = tree
    if source.merge == "group":
        visible = [step for step in visible if step.name in tree]
        in_order = {step.name: tree[step.name] for step in visible}
        if (failures := _failures(plan, tree)) is not None:
            in_order[failures.key] = tree[failures.key]
        pick = in_order if any(in_order.values()) else None
    elif source.merge in ("flat", "deep"):
        visible = [step for step in visible if (names := _members(step.source)) is None or not tree.keys().isdisjoint(names)]
    shown = tuple(step.index for step in visible)
    merged = [(step.index, step.name) for step in visible]
    if (failures := _failures(plan, tree)) is not None:
        merged.append((len(plan.steps), failures.key))
    may_be_absent = failures is not None or any(step.may_be_left_out for step in visible)
    assemble = assemble_steps(source, merged, may_be_absent=may_be_absent)
    response = replace(
        plan.response,
        assemble=assemble if pick is None else _picked(assemble, pick, is_projected),
        visible=shown,
        merged=tuple(index for index, _ in merged),
        failures=failures,
        merge_order=merge_order(source, [name for _, name in merged], pick),
    )
    return frozenset(shown), response


def _of_template(plan: EndpointPlan, tree: raw.Tree, *, is_projected: bool) -> tuple[frozenset[int], ResponsePlan]:
    body = _pruned_template(plan.source.response.body, tree)
    references = _references(body)
    shown = {reference.root for reference in references}
    counted = {reference.root for reference in references if not reference.is_soft}
    render = compile_json(body, _select(plan).references.__getitem__, is_strict=False)
    failures = _failures(plan, tree)
    visible = tuple(step.index for step in plan.steps if step.name in counted)
    assemble = (lambda _values, frame: render(frame)) if failures is None else merge.with_member(render, failures.key, len(plan.steps))
    response = replace(
        plan.response,
        assemble=_picked(assemble, tree, is_projected),
        visible=visible,
        merged=visible if failures is None else (*visible, len(plan.steps)),
        failures=failures,
    )
    return frozenset(step.index for step in plan.steps if step.name in shown), response


def _failures(plan: EndpointPlan, tree: raw.Tree) -> FailuresRule | None:
    """How the selected response shows failures; None when it does not, because they are not selected."""
    rule = plan.response.failures
    return rule if rule is not None and rule.key in tree else None


def _picked(assemble: merge.Assemble, wanted: raw.Tree, is_projected: bool) -> merge.Assemble:
    read = compile_reader(Shape(pick=wanted), [], None if is_projected else DecodeMode.FULL)
    return lambda values, frame: read(assemble(values, frame), frame)


def _pruned_template(node: Any, tree: raw.Tree) -> Any:
    """What is left of a JSON template. A reference stays whole."""
    if not tree:
        return node
    if isinstance(node, dict):
        return {name: _pruned_template(value, tree[str(name)]) for name, value in node.items() if str(name) in tree}
    return [_pruned_template(item, tree) for item in node] if isinstance(node, list) else node


def _reduced(step: StepPlan, tree: raw.Tree, *, is_projected: bool) -> StepPlan:
    """The step with as much of the selection as can be applied where its value is decoded. No reference to the value is left."""
    shape = shape_of(step.source, must_be="")
    if shape.wrap is not None:
        tree = tree.get(shape.wrap, {})
    if tree and shape.pick is not None:
        tree = _common(shape.pick, tree)
    if not tree or shape.rename is not None or step.each is not None:
        return step
    shape = replace(shape, pick=tree)
    mode = choose_mode(shape, []) if is_projected else DecodeMode.FULL
    order = reading(shape, [], mode)
    return replace(step, mode=mode, read=compile_reader(shape, [], mode), reading=order, large_from=min(order.from_bytes, PLAIN_FROM))


def _common(picked: raw.Tree, wanted: raw.Tree) -> raw.Tree:
    """The tree of what is in both, in the order of `picked`. Below a name under which nothing is, that of `picked`; the rest is removed later."""
    common: raw.Tree = {}
    for name, below in picked.items():
        if name in wanted:
            other = wanted[name]
            common[name] = (_common(below, other) or below) if below and other else below or other
    return common
