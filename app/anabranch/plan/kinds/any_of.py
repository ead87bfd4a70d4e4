"""The first good one of several steps, compiled. The steps themselves are compiled as what they are."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from anabranch.config import model as config
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import HeaderPairs
from anabranch.plan.operation import StepContext


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyPlan:
    """`members`: names of the steps. The rest as of `OperationPlan`."""

    members: tuple[str, ...]
    upstream: str = ""
    is_idempotent: bool = True
    worst_case_s: float = 0.0
    most_calls: int = 0
    may_be_left_out: bool = True

    def sent(self, frame: Frame, headers: Mapping[bytes, bytes], reached: HeaderPairs, query: bytes) -> Hashable:
        return None

    def result_schema(self) -> dict[str, Any] | None:
        return None

    def explain(self) -> str:
        return f"the first good one of {', '.join(self.members)}"

    def marks(self) -> list[str]:
        return []

    def facts(self) -> dict[str, Any]:
        return {"upstream": None, "any": list(self.members)}


def compile(step: config.FirstStep, context: StepContext) -> AnyPlan | None:  # noqa: A001 - what every kind does
    """Compile an `any` step. Its members are checked with those of the other steps."""
    return AnyPlan(members=tuple(step.any_))
