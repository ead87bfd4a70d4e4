"""The most upstream calls of one request: a number, and how it comes about (`1 + n, n <= 100`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from anabranch.plan.model import StepPlan


@dataclass(frozen=True, slots=True)
class Calls:
    """`most`: attempts of retries and hedges included. `formula`: the same with a letter for the length of each array that steps run for."""

    most: int
    formula: str


def most_calls(steps: Iterable[StepPlan]) -> Calls:
    """The most calls of these steps together."""
    fixed = 0
    growing: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for step in steps:
        calls = step.operation.most_calls
        if step.each is None or not calls:
            fixed += calls
        else:
            size = 1 if step.each.batch is None else step.each.batch.size
            growing.setdefault((step.each.source, step.each.most), []).append((calls, size))
    total = fixed
    words = [str(fixed)] if fixed or not growing else []
    limits = []
    for number, ((_, most), terms) in enumerate(growing.items(), 1):
        letter = "n" if len(growing) == 1 else f"n{number}"
        limits.append(f"{letter} <= {most}")
        single = sum(calls for calls, size in terms if size == 1)
        words += [_times(single, letter)] if single else []
        words += [_times(calls, f"ceil({letter} / {size})") for calls, size in terms if size > 1]
        total += sum(calls * ceil(most / size) for calls, size in terms)
    return Calls(total, ", ".join([" + ".join(words), *limits]))


def _times(factor: int, what: str) -> str:
    return what if factor == 1 else f"{factor} {what}"
