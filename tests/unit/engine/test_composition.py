"""Whole documents, made at random of everything that composes steps: however answers are decoded the response is the same, and a request makes no more
calls than `explain` says."""

import asyncio
import json
import os
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from anabranch.core.exchange import Answer
from anabranch.engine.outcome import Result
from anabranch.engine.run import Engine
from anabranch.jsontext.shape import DecodeMode
from anabranch.plan.calls import most_calls
from anabranch.plan.model import EndpointPlan
from anabranch.policy.call import Call
from tests.support.documents import plan_of, problems_of
from tests.support.requests import request_of

JSON = Any
_KEYS = ("id", "of", "x")
_LIST_STEPS = ("l0", "l1")
_EXTRAS: list[dict[str, Any]] = [
    *[{}] * 4,
    {"expect": "{value.x} != 1"},
    {"expect": "{$status} == 200 && {l0.x} == null"},
    {"success": [200, 500]},
    {"needs": ["l1"]},
    {"decode": "text"},
    {"decode": "ndjson"},
]

leaves = st.one_of(st.none(), st.booleans(), st.integers(0, 5), st.sampled_from(["a", "1", "é"]))
elements = st.one_of(
    st.fixed_dictionaries({}, optional={"id": leaves, "of": leaves, "x": st.one_of(leaves, st.lists(leaves, max_size=2))}), leaves
)
lists = st.one_of(st.lists(elements, max_size=6), st.none(), leaves)
answers = st.dictionaries(st.sampled_from(_KEYS), st.one_of(leaves, lists), max_size=3)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """An endpoint: steps with lists, steps that run for each of their elements, and steps that refer to all of these."""
    steps: dict[str, Any] = {
        name: {"upstream": "a", "path": f"/{name}", **draw(st.sampled_from([{}, {"pick": ["list"]}, {"drop": ["y"]}, {"hidden": True}]))}
        for name in _LIST_STEPS
    }
    arrays = [*(f"{name}.list" for name in _LIST_STEPS), "l0.list.*.x"]
    for number in range(draw(st.integers(1, 3))):
        source = draw(st.sampled_from(arrays))
        step: dict[str, Any] = {"upstream": "a", "each": f"{{{source}{draw(st.sampled_from(['', '?']))}}}"}
        kind = draw(st.sampled_from(["plain", "distinct", "batch"]))
        key = draw(st.sampled_from(["{item.id}", "{item.id?}", "{item.of}", "{item}"]))
        if kind == "batch":
            size = draw(st.integers(1, 3))
            step |= {
                "path": "/many",
                "query": {"id": "{batch}"},
                "batch": {"size": size, "key": key, "match": draw(st.sampled_from(["id", "of"]))},
            }
        else:
            step |= {"path": f"/one/{key}"} | ({"distinct": "{item.id}"} if kind == "distinct" else {})
        step |= draw(st.sampled_from([{}, {"max_items": 2}, {"max_items": 2, "truncate": True}]))
        step |= draw(st.sampled_from([{}, {"pick": ["id", "x"]}, {"drop": ["x"]}, {"default": {"none": 1}}, {"when": "{item} != null"}]))
        step |= draw(st.sampled_from([{}, {}, {"required": True}]))
        if draw(st.booleans()):
            step["join"] = {"into": source, "as": draw(st.sampled_from(["id", "found"]))}
        steps[f"e{number}"] = step
        arrays.append(f"e{number}")
    known = [*steps]
    for number in range(draw(st.integers(0, 3))):
        of = draw(st.sampled_from(known))
        below = (
            draw(st.sampled_from([".list.*.id", ".list", ".list.0.id", ".x?"]))
            if of in _LIST_STEPS
            else draw(st.sampled_from([".*.id", ".0.id?", ""]))
        )
        query = draw(st.sampled_from(["skip", "leave_out", "send"]))
        steps[f"s{number}"] = draw(
            st.sampled_from(
                [
                    {"upstream": "a", "path": f"/s/{{{of}{below}}}"},
                    {"upstream": "a", "path": "/s", "query": {"q": {"value": f"{{{of}{below}}}", "style": "comma", "when_empty": query}}},
                    {"upstream": "a", "path": "/s", "method": "POST", "idempotent": True, "body": {"all": f"{{{of}{below}}}"}},
                    {"upstream": "a", "path": "/s", "when": f"{{{of}.$ok}} == false", "default": "instead"},
                ]
            )
        )
    if draw(st.booleans()):
        kinds = {"kind": draw(st.sampled_from(["left", "inner"])), "many": draw(st.booleans())}
        join = {
            "left": "{l0.list}",
            "right": f"{{{draw(st.sampled_from(arrays))}}}",
            "on": {"id": draw(st.sampled_from(_KEYS))},
            "as": "found",
        }
        steps["j"] = {"join": join | kinds}
    for name, step in steps.items():
        if "upstream" in step and name not in _LIST_STEPS:
            step.update(draw(st.sampled_from(_EXTRAS)))
    if draw(st.booleans()):
        steps["instead"] = {"upstream": "a", "path": "/instead", "query": {"of": "{l1.list.*.of}"}}
        for name in draw(st.sets(st.sampled_from([*steps]), max_size=3)) - {"instead"}:
            if "default" not in steps[name]:
                steps[name] |= {"fallback": "instead"}
    if draw(st.booleans()):
        steps["first"] = {"any": ["one", "two"], "pick": ["path"]}
        steps |= {"one": {"upstream": "a", "path": "/one/0"}, "two": {"upstream": "b", "path": "/two"}}
    response = draw(
        st.sampled_from(
            [
                {},
                {},
                {"show_failures": True},
                {"merge": "deep"},
                {"body": {"whole": "{l0}", "first": "{l0.list.0}", "status": "{l1.$status}", "ok": "{e0.$ok}"}},
            ]
        )
    )
    return {"steps": steps, "response": response}


class Service:
    """Answers by what it is asked: the same for the same call. `failing`: call numbers modulo 7 whose paths fail."""

    def __init__(self, lists_of: dict[str, JSON], one: JSON, failing: frozenset[int]) -> None:
        self.calls = 0
        self._lists = lists_of
        self._one = one
        self._failing = failing

    async def __call__(self, call: Call) -> Answer:
        self.calls += 1
        await asyncio.sleep(0)
        target = call.request.target
        if sum(target.encode()) % 7 in self._failing:
            return Answer(500, [], b"{}")
        path, query = urlsplit(target)[2:4]
        name = path[1:]
        if name in self._lists:
            value: JSON = {"list": self._lists[name], "y": 1.50, "x": None}
        elif name == "many":
            value = [{"id": key, "of": key, **self._one} for key in parse_qs(query)["id"]] + [None, {"id": None}]
        else:
            value = {"path": target, **self._one}
        return Answer(200, [], json.dumps(value, indent=1).encode())


async def run(plan: EndpointPlan, service: Service) -> Result:
    return await Engine({"a": service, "b": service}).bind(plan)(request_of(plan))


def told(result: Result) -> tuple[int, JSON, bool, list[tuple[str, str | None, str]], dict[str, str]]:
    outcomes = [(one.step, None if one.failure is None else one.failure.code, one.shortfall) for one in result.outcomes]
    return result.status, None if result.body is None else json.loads(result.body), result.is_complete, outcomes, dict(result.left_out)


@settings(deadline=None, max_examples=int(os.environ.get("ANABRANCH_FUZZ", "60")), suppress_health_check=[HealthCheck.too_slow])
@given(document=documents(), l0=lists, l1=lists, one=answers, failing=st.frozensets(st.integers(0, 6), max_size=2))
def test_every_decode_mode_gives_the_same_response_with_no_more_calls_than_announced(
    document: dict[str, Any], l0: JSON, l1: JSON, one: JSON, failing: frozenset[int]
) -> None:
    found = []
    for is_full in (False, True):
        with patch("anabranch.plan.step.choose_mode", lambda *_: DecodeMode.FULL) if is_full else nullcontext():
            assume(not [problem for problem in problems_of(document) if not problem.is_warning])
            plan = plan_of(document)
        service = Service({"l0": l0, "l1": l1}, one, failing)
        result = asyncio.run(run(plan, service))
        assert service.calls <= most_calls(plan.steps).most
        found.append(told(result))
    first, second = found
    if first[0] == 200 or second[0] == 200:
        assert first == second
    else:
        assert first[:3] == second[:3]  # which steps were cancelled depends on which required one failed first
