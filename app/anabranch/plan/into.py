"""Compiles `join: {into, as}` of a step with `each`: its results go into the elements that they belong to."""

from collections.abc import Callable
from dataclasses import dataclass

from anabranch.config import model as config
from anabranch.jsontext import raw
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.into import place, put_into
from anabranch.jsontext.merge import ABSENT
from anabranch.jsontext.path import parse_path, parse_paths
from anabranch.plan.operation import StepContext
from anabranch.plan.reference import Reference

Refill = Callable[[bytes, Frame], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntoPlan:
    """`source`, `target`: indexes of the step whose results are put, and of the one into which. `path`: of the elements in the target's value. `rest`: JSON
    text for an element without a result. `refill`: fills the slots of the references to the target, which the response may have; None: it has none."""

    source: int
    target: int
    path: tuple[str, ...]
    key: str
    rest: bytes
    refill: Refill | None

    def apply(self, values: list[bytes], frame: Frame) -> None:
        """Replace the target's value, unless one of the two steps was left out or the target has no value."""
        target = values[self.target]
        results = values[self.source]
        if ABSENT in (target, results) or target == raw.NULL:
            return
        found = raw.items(results) or []
        values[self.target] = joined = put_into(target, self.path, self.key, [bytes(item) for item in found], self.rest)
        if self.refill is not None:
            self.refill(joined, frame)


def check_into(join: config.Into, each: Reference, context: StepContext) -> None:
    """Report what is wrong with a `join` of a step with `each`."""
    root, *path = parse_paths(join.into)
    if root != each.root or place(tuple(path)) != place(each.path):
        context.report(
            "the results can go only into the elements for which they are",
            "join",
            "into",
            value=join.into,
            hint=f"write {str(each)[1:-1].rstrip('?')}",
        )
    elif root not in context.endpoint.steps:
        context.report(f"`{root}` is not a step, so nothing of it is in the response", "join", "into", value=join.into)


def plan_into(
    steps: dict[str, config.Step], references: dict[str, Reference], refill: Callable[[str], Refill | None]
) -> tuple[IntoPlan, ...]:
    """The joins of an endpoint, in the order in which they are made: in document order, but what goes into results comes before the results go anywhere.
    `references`: the array of each step that has `join`."""
    names = list(steps)
    plans = {
        name: IntoPlan(
            source=names.index(name),
            target=names.index(references[name].root),
            path=place(references[name].path),
            key=parse_path(step.join.as_)[0],
            rest=raw.encode(step.default),
            refill=refill(references[name].root),
        )
        for name, step in steps.items()
        if isinstance(step.join, config.Into) and name in references
    }
    ordered: dict[str, IntoPlan] = {}
    for name in plans:
        _add(name, plans, ordered)
    return tuple(ordered.values())


def _add(name: str, plans: dict[str, IntoPlan], ordered: dict[str, IntoPlan]) -> None:
    for other, plan in plans.items():
        if plan.target == plans[name].source and other not in ordered:
            _add(other, plans, ordered)
    ordered.setdefault(name, plans[name])
