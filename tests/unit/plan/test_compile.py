"""Results of compilation: names, graphs, routes, and the positions of all mistakes."""

from typing import Any

import pytest

from anabranch.plan.graph import find_cycle, longest_path
from tests.support.documents import plan_of, problems_of

CALL = {"upstream": "a", "path": "/"}


def only(endpoint: dict[str, Any], **document: Any) -> tuple[str, str, str]:
    found = problems_of(endpoint, **document)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0].path, found[0].message, found[0].hint


def steps(**named: dict[str, Any]) -> dict[str, Any]:
    return {"steps": {name: {"upstream": "a", "path": "/", **step} for name, step in named.items()}}


@pytest.mark.parametrize(
    ("endpoint", "path", "message", "hint"),
    [
        (steps(x={"upstream": "aa"}), "endpoints[0].steps.x.upstream", "unknown upstream `aa`", "did you mean `a`"),
        (steps(x={}, y={"path": "/{xx.id}"}), "endpoints[0].steps.y.path", "unknown step `xx`", "did you mean `x`"),
        (steps(query={}), "endpoints[0].steps.query", "shadow", "roots"),
        (steps(x={"path": "/{x.id}"}), "endpoints[0].steps.x.path", "refers to itself", ""),
        (steps(x={"path": "/{query.id}"}), "endpoints[0].steps.x.path", "unknown query parameter `id`", "declare it"),
        (steps(x={"path": "/{path.id}"}), "endpoints[0].steps.x.path", "unknown path parameter `id`", "no parameters"),
        (steps(x={"path": "/{query}"}), "endpoints[0].steps.x.path", "names no parameter", "{query.name}"),
        (steps(x={"path": "/{body.a}"}), "endpoints[0].steps.x.path", "no request body", ""),
        (steps(x={"path": "/{a\tb}"}), "endpoints[0].steps.x.path", "is not a valid reference", ""),
        (steps(a={}, x={"path": '/{a."b c}'}), "endpoints[0].steps.x.path", "never closed", ""),
        (steps(a={}, x={"path": "/{a.@odata.count}"}), "endpoints[0].steps.x.path", 'write "@odata.count" if the dot is part', ""),
        (steps(a={}, x={"path": '/{a."b"c}'}), "endpoints[0].steps.x.path", "must follow the closing quote", ""),
        (steps(a={"pick": ['"b.c"']}, x={"path": "/{a.b.c}"}), "endpoints[0].steps.x.path", 'picks only `"b.c"`', ""),
        (steps(a={"drop": ['"b.c"']}, x={"path": '/{a."b.c".d}'}), "endpoints[0].steps.x.path", 'drops `"b.c"`', ""),
        (steps(x={"path": "/{"}), "endpoints[0].steps.x.path", "never closed", ""),
        (steps(x={"path": "/}"}), "endpoints[0].steps.x.path", "has no opening brace", ""),
        (steps(x={"path": "x"}), "endpoints[0].steps.x.path", "must start with /", ""),
        (steps(x={"path": "/a b"}), "endpoints[0].steps.x.path", "must not have a fragment or white space", ""),
        (steps(x={"query": {"q": {"value": 1, "style": "comma"}}}), "endpoints[0].steps.x.query.q", "`style` has no effect here", ""),
        (steps(x={"when": "{y.n?} == 1"}, y={}), "endpoints[0].steps.x.when", "`?` has no effect", ""),
        (steps(x={"headers": {"host": "a"}}), "endpoints[0].steps.x.headers.host", "by the gateway itself", ""),
        (steps(x={"coalesce": True, "method": "POST"}), "endpoints[0].steps.x.coalesce", "only a GET", ""),
        ({**steps(x={}), "path": "x"}, "endpoints[0].path", "must start with /", ""),
        ({**steps(x={}), "path": "/a/{b}{c}"}, "endpoints[0].path", "nothing between them", ""),
        ({**steps(x={}), "path": "/a/{b c"}, "endpoints[0].path", "white space", ""),
        ({**steps(x={}), "path": "/a/{b/c}"}, "endpoints[0].path", "not a valid segment", ""),
        ({**steps(x={}), "path": "/a/{1}"}, "endpoints[0].path", "not a valid segment", ""),
        ({**steps(x={}), "path": "/a/{b...}/c"}, "endpoints[0].path", "whole last segment", ""),
        ({**steps(x={}), "path": "/a/x{b...}"}, "endpoints[0].path", "whole last segment", ""),
        ({**steps(x={}), "path": "/a/{c}-{b...}"}, "endpoints[0].path", "whole last segment", ""),
        ({**steps(x={}), "path": "/a//b"}, "endpoints[0].path", "empty segments", ""),
        ({**steps(x={}), "path": "/{a}/{a}"}, "endpoints[0].path", "twice", ""),
        ({**steps(x={}), "path": "/metrics"}, "endpoints[0].path", "reserved", ""),
        ({**steps(x={}), "path": "/docs/x"}, "endpoints[0].path", "reserved", ""),
        ({**steps(x={}), "parameters": {"q": {"in": "path"}}}, "endpoints[0].parameters.q", "no parameter `q`", "{q}"),
        (
            {**steps(x={}), "parameters": {"q": {"in": "query", "schema": {"type": "int"}}}},
            "endpoints[0].parameters.q.schema",
            "the type of a parameter must be one of",
            "",
        ),
        (
            {**steps(x={}), "parameters": {"q": {"in": "query", "schema": {"type": "integer"}, "default": "a"}}},
            "endpoints[0].parameters.q.default",
            "does not match",
            "",
        ),
        ({**steps(x={}), "body": {}}, "endpoints[0].body", "a GET endpoint has no request body", ""),
        ({**steps(x={}), "method": "POST", "body": {"schema": {"type": "x"}}}, "endpoints[0].body.schema", "JSON Schema", ""),
        ({**steps(x={"default": 1}), "response": {"merge": "flat"}}, "endpoints[0].steps.x.default", "an object or null", ""),
    ],
)
def test_a_mistake_is_found_and_located(endpoint: dict[str, Any], path: str, message: str, hint: str) -> None:
    found = only(endpoint)
    assert found[0] == path
    assert message in found[1]
    assert hint in found[2]


@pytest.mark.parametrize(
    ("shape", "reference", "reason"),
    [
        ({"pick": ["a"]}, "b", "picks only `a`"),
        ({"pick": ["a.b"]}, "a.c", "picks only `a.b`"),
        ({"drop": ["a.b"]}, "a.0.b.c", "drops `a.b`"),
        ({"rename": {"a": "b"}}, "a", "renames `a` to `b`"),
        ({"wrap": "w"}, "a", "under `w`"),
        ({"pick": ["a"], "rename": {"a": "b"}}, "b", None),
        ({"pick": ["a"]}, "a.b.c", None),
        ({"pick": ["a.b"]}, "a.0.b", None),
        ({"drop": ["a.b"]}, "a.c", None),
        ({"wrap": "w", "pick": ["a"]}, "w.a", None),
        ({"rename": {"a": "b", "b": "a"}}, "a", None),
        ({"target": "x"}, "y", None),
    ],
)
def test_a_reference_to_a_value_removed_by_shaping_is_a_mistake(shape: dict[str, Any], reference: str, reason: str | None) -> None:
    found = problems_of(steps(s=shape, t={"path": "/{s." + reference + "}"}))
    assert (reason in found[0].message) if reason else not found


def test_all_steps_of_a_cycle_are_named() -> None:
    found = only(steps(x={"path": "/{z.i}"}, y={"path": "/{x.i}"}, z={"query": {"q": ["{y.i}"]}}))
    assert "x -> z -> y -> x" in found[1]


def test_all_mistakes_are_found_at_once() -> None:
    endpoint = steps(x={"upstream": "q", "path": "/{nope.a}", "headers": {"te": "x"}}, y={"path": "/{query.w}/{z.a}"}, z={"path": "/{y.b}"})
    assert len(problems_of({**endpoint, "path": "/docs"})) == 6


def test_indistinguishable_endpoints_are_a_mistake() -> None:
    endpoints = [{"path": "/a/{x}", "steps": {"s": CALL}}, {"path": "/a/{y}", "name": "other", "steps": {"s": CALL}}]
    found = only({}, endpoints=endpoints)
    assert found[0] == "endpoints[1].path"
    assert "matches the same requests as" in found[1]
    assert not problems_of({}, endpoints=[endpoints[0], {**endpoints[1], "method": "POST"}])


def test_two_endpoints_with_one_name_are_a_mistake() -> None:
    endpoints = [{"path": "/a", "name": "n", "steps": {"s": CALL}}, {"path": "/b", "name": "n", "steps": {"s": CALL}}]
    assert "two endpoints have the name `n`" in only({}, endpoints=endpoints)[1]


def test_a_critical_path_longer_than_the_deadline_is_a_warning() -> None:
    endpoint = {**steps(x={"timeout": "600ms"}, y={"path": "/{x.i}", "timeout": "600ms"}), "timeout": "1s"}
    found = problems_of(endpoint)
    assert [problem.is_warning for problem in found] == [True]
    assert "x -> y may take 1.2s, but the deadline is 1s" in found[0].message
    assert not problems_of({**endpoint, "timeout": "1200ms"})


def test_a_reference_to_a_broken_step_is_not_reported_as_unknown() -> None:
    from anabranch.config.model import Document
    from anabranch.config.problems import Problems
    from anabranch.plan.compile import compile_document

    problems = Problems()
    document = Document.model_validate(
        {
            "version": 1,
            "upstreams": {"a": {"url": "http://h"}},
            "endpoints": [{"path": "/x", "steps": {"y": {"upstream": "a", "path": "/{x.i}"}}}],
        }
    )
    compile_document(document, problems, broken={("endpoints", 0, "steps", "x")})
    assert not problems.errors


def test_the_graph_comes_from_references_alone() -> None:
    plan = plan_of(steps(last={"path": "/{mid.i}"}, mid={"headers": {"x": "{first.i}"}}, first={}, alone={}))
    assert [step.needs for step in plan.steps] == [(1,), (2,), (), ()]
    assert plan.ready == (2, 3)
    assert plan.steps[2].dependents == (1,)


def test_names_are_derived_from_method_and_path() -> None:
    assert plan_of({**steps(x={}), "path": "/flights/{flight_id}/a-b"}).name == "get_flights_by_flight_id_a_b"


def test_a_long_chain_needs_no_deep_stack() -> None:
    count = 5000
    needs = {str(index): [str(index - 1)] if index else [] for index in range(count)}
    assert find_cycle(needs) is None
    assert find_cycle({**needs, "0": [str(count - 1)]}) is not None
    cost, chain = longest_path([[index - 1] if index else [] for index in range(count)], [1.0] * count)
    assert (cost, len(chain)) == (count, count)
