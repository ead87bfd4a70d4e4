"""Which steps stand in for others: fallbacks, and the members of `any` steps. They run only when they are asked for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.config import model as config
from anabranch.config.problems import did_you_mean
from anabranch.plan.model import StepPlan

Report = Callable[..., Any]
"""Takes the name of a step, a message, the place below the step, and what `Problems.add` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """`on_demand`: names of the steps that wait for being asked. `only`: of those that nobody uses but the one step that asks for them.
    `named`: all that stand in for some step. `asks`: what each step may ask for."""

    on_demand: frozenset[str]
    only: frozenset[str]
    named: frozenset[str]
    asks: Mapping[str, tuple[str, ...]]


def hide_stand_ins(endpoint: config.Endpoint) -> config.Endpoint:
    """The endpoint with these steps hidden: their values stand in the place of others."""
    hidden = {name for step in endpoint.steps.values() for name in step.stand_ins}
    if not hidden:
        return endpoint
    steps = {name: step.model_copy(update={"hidden": True}) if name in hidden else step for name, step in endpoint.steps.items()}
    return endpoint.model_copy(update={"steps": steps})


def find_stand_ins(steps: Mapping[str, config.Step], used: Collection[str]) -> StandIns:
    """`used`: names of the steps to which other steps or the response refer. A member of an `any` step that is among them runs by itself, as any step; a
    fallback never does."""
    askers: dict[str, list[str]] = {}
    fallbacks = {step.fallback for step in steps.values() if step.fallback is not None}
    for name, step in steps.items():
        for stand_in in step.stand_ins:
            askers.setdefault(stand_in, []).append(name)
    only = frozenset(name for name, by in askers.items() if len(by) == 1 and name not in used)
    on_demand = only | (fallbacks & steps.keys())
    asks = {name: tuple(stand_in for stand_in in step.stand_ins if stand_in in on_demand) for name, step in steps.items()}
    return StandIns(on_demand=on_demand, only=only, named=frozenset(askers), asks=asks)


def check_stand_ins(steps: Mapping[str, config.Step], broken: Collection[str], report: Report) -> None:
    """Report names that cannot stand in for a step. `broken`: names of steps with problems of their own, which are reported."""
    for name, step in steps.items():
        for other, where in step.stand_in_places:
            found = steps.get(other)
            if other == name:
                report(name, "a step cannot stand in for itself", where, value=other)
            elif found is None:
                if other not in broken:
                    report(name, f"unknown step `{other}`", where, value=other, hint=did_you_mean(other, list(steps)))
            elif found.required:
                hint = f"require `{name}` instead"
                report(other, f"`{other}` stands in for `{name}`, which may do without it: it cannot be required", ("required",), hint=hint)
            elif found.has_default:
                hint = f"give it to `{name}`"
                report(other, f"the default of `{other}` would never be used: `{other}` stands in for `{name}`", ("default",), hint=hint)
        if len(set(step.stand_ins)) < len(step.stand_ins):
            report(name, "a step stands in twice", ("any" if isinstance(step, config.FirstStep) else "fallback",))


def waits(steps: Sequence[StepPlan]) -> list[tuple[int, ...]]:
    """The indexes of the steps that each one comes after, in the worst case: a fallback after the step that has failed, and what needs that step after
    both; an `any` step after its members, which begin when it could."""
    before = [set(step.needs) for step in steps]
    for step in steps:
        if step.fallback >= 0:
            before[step.fallback].add(step.index)
        for member in step.members:
            before[step.index].add(member)
            before[member].update(step.needs)
    for step in steps:
        for need in step.needs:
            while (need := steps[need].fallback) >= 0:
                before[step.index].add(need)
    return [tuple(sorted(found)) for found in before]
