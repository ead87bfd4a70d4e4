"""The demo's gateway document is valid, and its plans match its comments."""

from functools import cache
from pathlib import Path

import pytest

from anabranch.config.load import read
from anabranch.jsontext.shape import DecodeMode
from anabranch.plan.compile import compile_document
from anabranch.plan.model import DocumentPlan, EndpointPlan
from demo.service import PORTS
from tests.support.documents import call_of

DOCUMENT = Path("demo/gateway.yaml")


@cache
def plans() -> DocumentPlan:
    draft = read(DOCUMENT, {})
    plan = compile_document(draft.document, draft.problems, endpoint_paths=draft.endpoint_paths, broken=draft.broken)
    draft.problems.raise_if_any()
    assert draft.problems.warnings == []
    return plan


def endpoint(name: str) -> EndpointPlan:
    (found,) = (plan for plan in plans().endpoints if plan.name == name)
    return found


def test_every_endpoint_compiles_without_errors_and_warnings() -> None:
    assert [plan.name for plan in plans().endpoints] == [
        "flight_briefing",
        "route_overview",
        "airport_board",
        "departures",
        "nearby_airports",
        "search",
        "airline",
        "delay_report",
    ]
    assert plans().source.routers == ["demo.routes:router"]


def test_upstreams_point_to_the_ports_of_the_services() -> None:
    assert {name: upstream.addresses[0].port for name, upstream in plans().upstreams.items()} == PORTS


@pytest.mark.parametrize("name", PORTS)
def test_environment_variable_changes_an_upstreams_address(name: str) -> None:
    document = read(DOCUMENT, {f"{name.upper()}_URL": "http://elsewhere:80"}).document
    assert document.upstreams[name].addresses[0].host == "elsewhere"


def test_briefing_has_three_levels_of_dependencies() -> None:
    steps = endpoint("flight_briefing").steps
    needs = {step.name: {steps[index].name for index in step.needs} for step in steps}
    assert needs == {
        "flight": set(),
        "airline": {"flight"},
        "plane": {"flight"},
        "origin": {"flight"},
        "destination": {"flight"},
        "weather": {"flight"},
        "fleet": {"plane"},
        "past": {"flight"},
        "delays": {"past"},
    }
    assert [step.name for step in steps if step.is_required] == ["flight"]


@pytest.mark.parametrize("name", ["airport_board", "route_overview", "search"])
def test_independent_calls_start_at_once(name: str) -> None:
    plan = endpoint(name)
    assert plan.ready == tuple(range(len(plan.steps)))
    assert len(plan.steps) >= 3


def test_lists_in_the_departures_wait_for_the_flights_only() -> None:
    steps = endpoint("departures").steps
    needs = {step.name: {steps[index].name for index in step.needs} for step in steps}
    assert needs == {"flights": set(), "airlines": {"flights"}, "planes": {"flights"}, "weather": {"flights"}}
    assert [step.name for step in steps if not step.is_hidden] == ["flights"]


def test_search_forwards_the_body_and_may_be_retried() -> None:
    plan = endpoint("search")
    assert {call_of(step).method for step in plan.steps} == {"POST"}
    assert all(step.operation.is_idempotent for step in plan.steps)


def test_answers_without_rules_are_spliced() -> None:
    modes = {step.name: step.mode for step in endpoint("search").steps}
    assert modes["found"] is DecodeMode.SPLICE
