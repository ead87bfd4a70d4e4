"""Plans pruned to a selection: which steps run, what the parameter is, and what explain says."""

from dataclasses import replace
from typing import Any

import pytest

from anabranch.jsontext.select import parse
from anabranch.plan.explain import explain
from anabranch.plan.model import EndpointPlan
from anabranch.plan.select import needed, prune
from anabranch.policy.stack import describe
from tests.support.documents import plan_of, problems_of, upstream_plan

STEPS: dict[str, Any] = {
    "login": {"upstream": "a", "path": "/login", "hidden": True},
    "guard": {"upstream": "a", "path": "/guard", "required": True, "query": {"t": "{login.token}"}},
    "flight": {"upstream": "a", "path": "/flight"},
    "airline": {"upstream": "a", "path": "/airlines/{flight.carrier}", "when": "{weather.temp} > 1"},
    "weather": {"upstream": "a", "path": "/weather"},
    "log": {"upstream": "a", "path": "/log", "method": "POST", "body": {"t": "{header.x}"}, "hidden": True},
    "search": {"upstream": "a", "path": "/search", "method": "POST", "idempotent": True, "body": {}},
    "replace": {"upstream": "a", "path": "/replace", "method": "PUT", "idempotent": True, "body": {}, "hidden": True},
}
ENDPOINT: dict[str, Any] = {
    "steps": STEPS,
    "parameters": {"x": {"in": "header"}},
    "response": {"select": {"parameter": "fields"}},
}
ALWAYS = {"login", "guard", "log", "replace"}


def running(plan: EndpointPlan, *fields: str) -> set[str]:
    pruned = prune(plan, parse(fields), is_projected=True)
    return {step.name for step in pruned.steps} - pruned.unselected


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ("guard", set()),
        ("flight.id", {"flight"}),
        ("airline", {"flight", "airline", "weather"}),
        ("search,weather.temp", {"search", "weather"}),
    ],
)
def test_what_is_selected_runs_with_what_it_needs_and_with_what_guards_or_changes_something(fields: str, steps: set[str]) -> None:
    assert running(plan_of(ENDPOINT), fields) == ALWAYS | steps


def test_a_pruned_plan_starts_only_what_runs_and_keeps_indexes_and_slots() -> None:
    plan = plan_of(ENDPOINT)
    pruned = prune(plan, parse(["weather"]), is_projected=True)
    assert [step.name for step in pruned.steps] == list(STEPS)
    assert {pruned.steps[index].name for index in pruned.ready} == {"login", "weather", "log", "replace"}
    assert [pruned.steps[index].name for index in pruned.steps[0].dependents] == ["guard"]
    assert pruned.steps[4].dependents == ()
    assert (pruned.slot_count, pruned.has_required) == (plan.slot_count, True)
    assert [pruned.steps[index].name for index in pruned.response.visible] == ["weather"]


def test_what_header_fields_of_the_response_refer_to_runs_always() -> None:
    plan = plan_of(
        {"steps": {"a": {"upstream": "a", "path": "/a"}, "b": {"upstream": "a", "path": "/b"}}, "response": {"select": {"parameter": "f"}}}
    )
    assert needed(plan) == frozenset()
    assert plan.select is not None
    assert running(replace(plan, select=replace(plan.select, beside=frozenset({"b"}))), "a") == {"a", "b"}


def test_the_parameter_is_described_and_has_a_slot_of_its_own() -> None:
    plan = plan_of(ENDPOINT)
    (parameter,) = plan.query_parameters
    assert plan.select is not None
    assert (parameter.name, parameter.is_required, parameter.slot) == ("fields", False, plan.select.slot)
    assert parameter.source.schema_["examples"] == ["guard,flight"]
    assert "`guard`, `flight`, `airline`, `weather`, `search`." in parameter.source.description
    assert not plan_of({**ENDPOINT, "response": {}}).query_parameters


def test_a_reference_to_the_parameter_is_unknown() -> None:
    (problem,) = problems_of({"steps": {"a": {"upstream": "a", "path": "/a/{query.f}"}}, "response": {"select": {"parameter": "f"}}})
    assert "unknown query parameter `f`" in problem.message


def test_explain_says_what_every_selection_runs() -> None:
    upstreams = {"a": upstream_plan("a")}
    text = explain(plan_of(ENDPOINT), upstreams, describe)
    assert "  clients select with ?fields=; steps that run for every selection: login, guard, log, replace" in text.splitlines()
    steps = {"a": {"upstream": "a", "path": "/a"}}
    assert "clients select" not in explain(plan_of({"steps": steps}), upstreams, describe)
    only = plan_of({"steps": steps, "response": {"select": {"parameter": "f"}}})
    assert "  clients select with ?f=; steps that run for every selection: none" in explain(only, upstreams, describe).splitlines()
