"""Joins of two lists that are there already, compiled."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from anabranch.config import model as config
from anabranch.jsontext.frame import Frame
from anabranch.jsontext.join import Join
from anabranch.jsontext.order import joining
from anabranch.jsontext.path import parse_path
from anabranch.plan.each import array_of
from anabranch.plan.model import HeaderPairs
from anabranch.plan.operation import StepContext
from anabranch.plan.reference import Reference, is_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """`left`, `right`: JSON text of the arrays; raise MissingReference and LeftOut. `order`: the same join for a worker process. `words`: for people. The rest as of
    `OperationPlan`."""

    left: Callable[[Frame], bytes]
    right: Callable[[Frame], bytes]
    rule: Join
    order: str
    words: str
    may_be_left_out: bool
    upstream: str = ""
    is_idempotent: bool = True
    worst_case_s: float = 0.0
    most_calls: int = 0

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes], reached: HeaderPairs, query: bytes) -> Hashable:
        return self.left(frame), self.right(frame)

    def result_schema(self) -> dict[str, Any] | None:
        return None

    def explain(self) -> str:
        return self.words

    def marks(self) -> list[str]:
        return []

    def facts(self) -> dict[str, Any]:
        return {"upstream": None, "join": self.words}


def compile(step: config.JoinStep, context: StepContext) -> JoinPlan | None:  # noqa: A001 - what every kind does
    """Compile a join; None when there is a problem, which is reported."""
    lists = step.join
    left, right = _reference(lists.left, "left", context), _reference(lists.right, "right", context)
    if left is None or right is None:
        return None
    rule = Join(
        left=tuple(parse_path(path) for path in lists.on),
        right=tuple(parse_path(path) for path in lists.on.values()),
        name=parse_path(lists.as_)[0],
        is_inner=lists.kind == "inner",
        is_many=lists.many,
    )
    pairs = " and ".join(f"{one} = {other}" for one, other in lists.on.items())
    slot = context.scope.slot
    return JoinPlan(
        left=array_of(slot(left), str(left)),
        right=array_of(slot(right), str(right)),
        rule=rule,
        order=joining(rule),
        words=f"{lists.kind} join of {left} with {right} on {pairs} as {lists.as_}",
        may_be_left_out=left.is_nullable or right.is_nullable,
    )


def _reference(text: str, key: str, context: StepContext) -> Reference | None:
    template = context.parse(text, "join", key)
    only = template[0] if is_whole(template) else None
    if isinstance(only, Reference):
        return only
    if template or not text:
        context.report(f"`{key}` must be one reference to an array, such as {{orders.items}}", "join", key, value=text)
    return None
