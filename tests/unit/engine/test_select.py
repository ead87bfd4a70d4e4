"""Requests with a selection: the response is a pick of the whole one, no further call is made, and what is kept of selections is bounded."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.core.exchange import Answer
from anabranch.edge.parameters import fill
from anabranch.engine.outcome import Result
from anabranch.engine.run import Engine, Run
from anabranch.errors import InvalidParameters
from anabranch.jsontext import raw
from anabranch.plan.model import EndpointPlan
from anabranch.plan.select import MOST_KEPT
from anabranch.policy.call import Call
from tests.support.documents import plan_of
from tests.support.requests import request_of


class Services:
    """Answers each path without its query; 500 to any other. `seen`: paths in the order they were called."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = {path: json.dumps(value).encode() for path, value in answers.items()}
        self.seen: list[str] = []

    async def __call__(self, call: Call) -> Answer:
        path = call.request.target.partition("?")[0]
        self.seen.append(path)
        call.attempts = 1
        body = self.answers.get(path)
        return Answer(500, [], b"") if body is None else Answer(200, [], body)


class Bench:
    """One endpoint, whose clients select with `fields`."""

    def __init__(self, endpoint: dict[str, Any], answers: Mapping[str, Any]) -> None:
        response = {**endpoint.get("response", {}), "select": {"parameter": "fields"}}
        self.services = Services(answers)
        self.plan = plan_of({**endpoint, "response": response})
        self.run: Run = Engine({"a": self.services}).bind(self.plan)
        self.used: EndpointPlan | None = None

    async def ask(self, fields: str | None = None) -> Result:
        self.services.seen.clear()
        request = request_of(self.plan, query=b"" if fields is None else b"fields=" + fields.encode())
        fill(request)
        result = await self.run(request)
        self.used = request.plan
        return result


names: st.SearchStrategy[str] = st.sampled_from(["a", "b", "c", "0"])
scalars: st.SearchStrategy[Any] = st.sampled_from([None, True, 1, "x"])
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)), max_leaves=12
)
objects: st.SearchStrategy[Any] = st.dictionaries(names, values, max_size=3)
paths: st.SearchStrategy[str] = st.lists(names, min_size=1, max_size=2).map(".".join)


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """An endpoint and what its services answer."""
    merge = draw(st.sampled_from(["group", "group", "flat", "deep", "body"]))
    steps: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 4))):
        name = f"s{number}"
        step: dict[str, Any] = {"upstream": "a", "path": f"/{name}"}
        if draw(st.booleans()) and steps:
            step["query"] = {"q": f"x{{{draw(st.sampled_from(sorted(steps)))}.{draw(paths)}}}"}
        shaping = draw(st.sampled_from(["", "", "pick", "drop", "rename"]))
        if shaping in ("pick", "drop"):
            step[shaping] = draw(st.lists(paths, min_size=1, max_size=2))
        elif shaping:
            step["rename"] = {draw(paths): draw(names)}
        step |= {key: value for key, value in {"hidden": True, "target": "a", "wrap": "b"}.items() if draw(st.integers(0, 4)) == 0}
        if draw(st.booleans()):
            step["default"] = draw(objects)
        if draw(st.integers(0, 3)):
            answers[f"/{name}"] = draw(values if merge == "group" else objects)
        steps[name] = step
    endpoint: dict[str, Any] = {"steps": steps, "response": {"merge": merge, "arrays": draw(st.sampled_from(["concat", "replace"]))}}
    if merge == "body":
        parts = st.one_of(scalars, st.sampled_from(sorted(steps)).map(lambda name: f"{{{name}}}"), paths.map(lambda path: f"{{s0.{path}}}"))
        endpoint["response"] = {
            "body": draw(
                st.dictionaries(names, st.one_of(parts, st.lists(parts, max_size=2), st.dictionaries(names, parts, max_size=2)), min_size=1)
            )
        }
    return endpoint, answers


selections: st.SearchStrategy[raw.Tree] = st.recursive(
    st.just({}), lambda below: st.dictionaries(names, below, min_size=1, max_size=3), max_leaves=6
).filter(bool)


def text_of(tree: raw.Tree) -> str:
    return ",".join(f"{name}({text_of(below)})" if below else name for name, below in tree.items())


@settings(max_examples=40, deadline=None)
@given(document=documents(), tree=selections, data=st.data())
def test_a_selected_response_is_a_pick_of_the_whole_one(
    document: tuple[dict[str, Any], dict[str, Any]], tree: raw.Tree, data: st.DataObject
) -> None:
    endpoint, answers = document
    try:
        bench = Bench(endpoint, answers)
    except AssertionError:
        return  # a document with problems, such as a reference to a dropped member
    selected = bench.plan.select
    assert selected is not None
    if selected.names is not None and bench.plan.source.response.merge == "group":
        tree = {
            name: data.draw(st.one_of(st.just({}), st.just(tree)))
            for name in data.draw(st.sets(st.sampled_from(selected.names), min_size=1))
        }
    asyncio.run(_compare(bench, text_of(tree), tree))


async def _compare(bench: Bench, fields: str, tree: raw.Tree) -> None:
    whole = await bench.ask()
    called = list(bench.services.seen)
    for _ in range(9):  # before and after the projection is compiled
        try:
            part = await bench.ask(fields)
        except InvalidParameters:
            return
        assert set(bench.services.seen) <= set(called)
        assert part.is_complete or not whole.is_complete
        if whole.body is not None and part.body is not None:
            assert json.loads(part.body) == json.loads(raw.encode(raw.pick(whole.body, tree)))


STEPS = {
    "steps": {
        "flight": {"upstream": "a", "path": "/flight"},
        "airline": {"upstream": "a", "path": "/airline", "query": {"of": "{flight.carrier}"}},
        "weather": {"upstream": "a", "path": "/weather", "pick": ["temp", "wind.speed", "wind.gust"]},
    }
}
ANSWERS = {
    "/flight": {"id": 1, "carrier": "UA"},
    "/airline": {"name": "United"},
    "/weather": {"temp": 3, "wind": {"speed": 1, "gust": 2}, "x": 0},
}


async def test_an_answer_is_projected_to_what_is_selected_once_that_pays() -> None:
    bench = Bench(STEPS, ANSWERS)
    modes = []
    for _ in range(9):
        result = await bench.ask("weather.wind.gust,flight(id)")
        assert result.body == b'{"flight":{"id":1},"weather":{"wind":{"gust":2}}}'
        assert bench.used is not None
        modes.append([step.mode.value for step in bench.used.steps])
    assert modes[0] == ["full", "splice", "full"]
    assert modes[-1] == ["project", "splice", "project"]
    assert bench.used is not None
    assert bench.used.steps[2].read(b'{"temp": 1, "wind": {"gust": 2, "speed": 3}}', []) == b'{"wind":{"gust":2}}'


async def test_a_selection_with_very_many_branches_is_not_compiled() -> None:
    bench = Bench(STEPS, ANSWERS)
    fields = f"weather.temp,flight({','.join(f'n{number}.m' for number in range(20))})"
    for _ in range(9):
        result = await bench.ask(fields)
        assert result.body == b'{"flight":{},"weather":{"temp":3}}'
    assert bench.used is not None
    assert bench.used.steps[0].mode.value == "full"


async def test_a_value_that_others_refer_to_is_read_whole() -> None:
    bench = Bench(STEPS, ANSWERS)
    await bench.ask("flight.id,airline")
    assert bench.used is not None
    assert bench.used.steps[0].read is bench.plan.steps[0].read


async def test_equal_selections_share_a_plan_and_another_one_has_its_own() -> None:
    bench = Bench(STEPS, ANSWERS)
    await bench.ask("weather,flight(id,carrier)")
    first = bench.used
    for same in ("flight(carrier,id),weather", "+weather+,+flight.id,flight.carrier", "weather.*,weather.temp,flight(id,carrier,id)"):
        await bench.ask(same)
        assert bench.used is first
    await bench.ask("weather")
    assert bench.used is not first
    await bench.ask("*")
    assert bench.used is bench.plan


async def test_only_the_last_used_selections_are_kept() -> None:
    bench = Bench(STEPS, ANSWERS)
    await bench.ask("weather.temp")
    first = bench.used
    for number in range(MOST_KEPT - 1):
        await bench.ask(f"weather.x{number}")
    await bench.ask("weather.temp")
    assert bench.used is first
    for number in range(MOST_KEPT):
        await bench.ask(f"weather.y{number}")
    await bench.ask("weather.temp")
    assert bench.used is not first


async def test_steps_that_read_alike_share_what_they_are_bound_to() -> None:
    bench = Bench(STEPS, ANSWERS)
    whole = await bench.ask()
    part = await bench.ask("airline.name,weather")
    assert (
        whole.body == b'{"flight":{"id": 1, "carrier": "UA"},"airline":{"name": "United"},"weather":{"temp":3,"wind":{"speed":1,"gust":2}}}'
    )
    assert part.body == b'{"airline":{"name":"United"},"weather":{"temp":3,"wind":{"speed":1,"gust":2}}}'
    assert [outcome.step for outcome in part.outcomes] == ["flight", "airline", "weather"]
    assert bench.used is not None
    assert bench.used.unselected == frozenset()


@pytest.mark.parametrize("fields", ["wether", "flight,hidden.x", "Flight"])
async def test_a_name_that_the_response_does_not_have_is_refused_before_anything_is_called(fields: str) -> None:
    bench = Bench(STEPS, ANSWERS)
    with pytest.raises(InvalidParameters):
        await bench.ask(fields)
    assert bench.services.seen == []
