"""The schema of a response of which parts are selected: it holds for every part of what the whole schema holds for."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.describe.openapi import describe
from anabranch.describe.select import loosened
from anabranch.jsontext import raw
from anabranch.plan.model import DocumentPlan, EndpointPlan
from tests.support.documents import plan_of

SCHEMAS: list[tuple[Any, Any]] = [
    ({"type": "integer"}, 5),
    ({"const": {"a": 1, "b": [1, {"c": None}]}}, {"a": 1, "b": [1, {"c": None}]}),
    ({"enum": [{"a": 1}, 2, "x"]}, {"a": 1}),
    ({"type": "object", "required": ["a"], "minProperties": 2, "properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/b"}},
      "$defs": {"b": {"type": "object", "required": ["c"], "properties": {"c": {"type": ["number", "null"]}}}}}, {"a": "x", "b": {"c": 1.5}}),
    ({"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}, {"a": 1}),
    ({"type": "array", "uniqueItems": True, "items": {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": {}, "b": {}}}}, [{"a": 1}, {"a": 2, "b": {"a": 3}}]),
    ({"allOf": [{"type": "object"}, {"not": {"type": "null"}}], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"b": {"c": 1}}),
    ({"type": "object", "patternProperties": {"^a$": {"type": "object", "required": ["b"]}}, "additionalProperties": {"type": "integer"}}, {"a": {"b": 2}, "c": 3}),
    ({"prefixItems": [{"const": 1}, {"type": "object", "required": ["a"]}], "contains": {"const": 1}}, [1, {"a": 2}]),
    (True, 1),
]  # fmt: skip
names = st.sampled_from(["a", "b", "c"])
selections: st.SearchStrategy[raw.Tree] = st.recursive(
    st.just({}), lambda below: st.dictionaries(names, below, min_size=1, max_size=2), max_leaves=4
).filter(bool)


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
@settings(max_examples=20, deadline=None)
@given(tree=selections)
def test_every_part_of_a_valid_value_fits_the_loosened_schema(schema: Any, value: Any, tree: raw.Tree) -> None:
    assert jsonschema_rs.is_valid(schema, value)
    loose = loosened(schema)
    assert loosened(loose) == loosened(loosened(loose))
    part = json.loads(raw.encode(raw.pick(json.dumps(value).encode(), tree)))
    assert jsonschema_rs.is_valid(loose, value)
    assert jsonschema_rs.is_valid(loose, part)


def response_of(plan: EndpointPlan) -> Any:
    document = DocumentPlan(endpoints=(plan,), source=None)  # type: ignore[arg-type]  # not read here
    paths, _ = describe(document)
    return paths["/x"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]


def test_nothing_is_required_of_a_response_whose_parts_are_selected() -> None:
    endpoint: dict[str, Any] = {
        "steps": {
            "a": {"upstream": "a", "path": "/a", "wrap": "w", "required": True},
            "b": {"upstream": "a", "path": "/b", "pick": ["x.y"], "default": {"x": {"y": 1}}},
        }
    }
    assert response_of(plan_of(endpoint))["required"] == ["a", "b"]
    schema = response_of(plan_of({**endpoint, "response": {"select": {"parameter": "fields"}}}))
    assert schema["type"] == "object"
    assert "required" not in json.dumps(schema)
    responses: list[Any] = [{}, {"a": {}}, {"a": {"w": 1}}, {"b": {"x": {}}}, {"b": None}, {"b": [{"x": {"y": 2}}]}]
    for response in responses:
        assert jsonschema_rs.is_valid(schema, response)
    assert not jsonschema_rs.is_valid(schema, [])
