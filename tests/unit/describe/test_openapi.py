from dataclasses import replace
from typing import Any

import orjson
import pytest
from fastapi.openapi.models import OpenAPI

from anabranch.config import model as config
from anabranch.describe.openapi import describe
from anabranch.plan.model import EndpointPlan
from tests.support.documents import compute_of
from tests.support.edge_plans import body, document, endpoint, parameter, read_integer

STEPS: dict[str, dict[str, Any]] = {
    "flight": {"upstream": "flights", "path": "/f", "required": True},
    "airline": {
        "upstream": "airlines",
        "path": "/a",
        "pick": ["name", "home.city"],
        "rename": {"home.city": "town"},
        "default": {"name": "?"},
    },
    "weather": {"upstream": "weather", "path": "/w", "wrap": "now"},
    "past": {"upstream": "flights", "path": "/p", "hidden": True},
}


def operation(plan: EndpointPlan) -> dict[str, Any]:
    paths, _ = describe(document(plan))
    made: dict[str, Any] = paths[plan.path][plan.method.lower()]
    return made


def schema(response: dict[str, Any] | None = None, steps: dict[str, dict[str, Any]] | None = None) -> Any:
    return operation(endpoint(response=response, steps=steps or STEPS))["responses"]["200"]["content"]["application/json"]["schema"]


def test_operation_has_the_texts_of_the_document() -> None:
    made = operation(endpoint(name="briefing", summary="One flight", description="More.", tags=["flights"]))
    assert (made["operationId"], made["summary"], made["description"], made["tags"]) == ("briefing", "One flight", "More.", ["flights"])
    assert "parameters" not in made
    assert "requestBody" not in made


def test_parameters_are_described() -> None:
    plan = endpoint(
        "/f/{id}",
        parameters=(
            parameter("id", "path", schema={"type": "integer"}),
            parameter("units", default="metric", schema={"type": "string", "enum": ["metric", "imperial"]}),
            parameter("x-key", "header", is_required=True),
        ),
    )
    assert operation(plan)["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {
            "name": "units",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "enum": ["metric", "imperial"], "default": "metric"},
        },
        {"name": "x-key", "in": "header", "required": True, "schema": {"type": "string"}},
    ]


def test_body_is_described() -> None:
    source = config.Body.model_validate({"schema": {"type": "object"}, "description": "What to book"})
    assert operation(endpoint(method="POST", body=body(source=source)))["requestBody"] == {
        "description": "What to book",
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    assert operation(endpoint(method="POST", body=body(is_required=False)))["requestBody"] == {
        "required": False,
        "content": {"application/json": {"schema": {}}},
    }


def test_recursive_schema_becomes_a_component() -> None:
    tree = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"below": {"$ref": "#/$defs/node"}}}}}
    source = config.Body.model_validate({"schema": tree})
    paths, components = describe(document(endpoint(method="POST", name="book-it", body=body(source=source))))
    placed = paths["/briefing"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert placed == {"$ref": "#/components/schemas/book_it_body"}
    node = components["schemas"]["book_it_body"]
    assert node["$ref"] == "#/components/schemas/book_it_body/$defs/node"
    assert node["$defs"]["node"]["properties"]["below"]["$ref"] == "#/components/schemas/book_it_body/$defs/node"


def test_group_is_an_object_with_the_visible_steps() -> None:
    made = schema()
    assert made["type"] == "object"
    assert made["required"] == ["flight", "airline", "weather"]
    assert list(made["properties"]) == ["flight", "airline", "weather"]


def test_a_step_that_a_condition_may_leave_out_is_not_promised() -> None:
    plan = endpoint(steps=STEPS)
    plan = replace(plan, steps=tuple(replace(step, may_be_left_out=step.name in ("flight", "weather")) for step in plan.steps))
    made = operation(plan)["responses"]["200"]["content"]["application/json"]["schema"]
    assert made["required"] == ["airline"]
    assert list(made["properties"]) == ["flight", "airline", "weather"]
    assert made["properties"]["flight"] == {"description": "From flights. Left out when a condition does not hold."}
    assert made["properties"]["weather"]["description"].endswith(" Optional: null when it fails. Left out when a condition does not hold.")
    assert "Left out" not in made["properties"]["airline"]["description"]


def test_a_value_without_rules_gets_no_schema() -> None:
    assert schema()["properties"]["flight"] == {"description": "From flights."}


def test_names_in_the_schema_come_from_pick_and_rename() -> None:
    assert schema()["properties"]["airline"] == {
        "properties": {"name": {}, "home": {"properties": {"town": {}}}},
        "description": "From airlines. Optional: its default when it fails.",
    }


def test_wrapped_optional_step_may_be_null() -> None:
    assert schema()["properties"]["weather"] == {
        "anyOf": [{"type": "object", "required": ["now"], "properties": {"now": {}}}, {"type": "null"}],
        "description": "From weather. Optional: null when it fails.",
    }


def test_schema_of_a_wrapped_step_includes_its_default() -> None:
    step = {"upstream": "weather", "path": "/w", "wrap": "now", "default": {"now": None}}
    assert schema(steps={"weather": step})["properties"]["weather"]["anyOf"][1] == {"const": {"now": None}}


@pytest.mark.parametrize("merge", ["flat", "deep"])
def test_merged_response_is_an_object_with_the_known_names(merge: str) -> None:
    assert schema({"merge": merge}) == {"type": "object", "properties": {"name": {}, "home": {}, "now": {}}}


def test_literal_parts_of_a_template_are_described() -> None:
    template = {"kind": "briefing", "n": 1, "flight": "{flight}", "text": "{{x}}", "list": ["{flight}"], "deep": {"a": None}}
    assert schema({"body": template}) == {
        "type": "object",
        "required": ["kind", "n", "flight", "text", "list", "deep"],
        "properties": {
            "kind": {"type": "string"},
            "n": {"const": 1},
            "flight": {},
            "text": {"type": "string"},
            "list": {"type": "array"},
            "deep": {"type": "object", "required": ["a"], "properties": {"a": {"const": None}}},
        },
    }


def test_only_possible_responses_are_described() -> None:
    assert set(operation(endpoint())["responses"]) == {"200", "406", "4XX", "500", "502", "503", "504"}
    with_path = endpoint("/f/{id}", parameters=(parameter("id", "path"),), steps=STEPS)
    assert set(operation(with_path)["responses"]) == {"200", "400", "404", "406", "4XX", "500", "502", "503", "504"}
    with_body = operation(endpoint(method="POST", body=body()))["responses"]
    assert set(with_body) == {"200", "400", "406", "408", "413", "415", "4XX", "500", "502", "503", "504"}


def test_status_type_and_fixed_header_fields_follow_the_document() -> None:
    response = {"status": 201, "headers": {"Content-Type": "application/geo+json", "Cache-Control": "max-age=9", "X-Fixed": "yes"}}
    made = operation(endpoint(response=response))["responses"]["201"]
    assert list(made["content"]) == ["application/geo+json"]
    assert made["headers"]["x-fixed"] == {"schema": {"type": "string", "const": "yes"}}
    assert made["headers"]["cache-control"]["schema"] == {"type": "string", "enum": ["max-age=9", "no-store"]}
    assert {"Gateway-Complete", "Server-Timing", "Proxy-Status", "X-Request-Id"} < set(made["headers"])
    assert "content" not in operation(endpoint(response={"status": 204}))["responses"]["204"]


def test_methods_of_one_path_are_grouped_and_the_same_plan_gives_the_same_bytes() -> None:
    served = document(endpoint(), endpoint(method="POST", body=body()))
    paths, _ = describe(served)
    assert list(paths["/briefing"]) == ["get", "post"]
    assert orjson.dumps(describe(served)) == orjson.dumps(describe(served))


def test_description_is_valid_by_fastapis_openapi_model() -> None:
    plan = endpoint("/f/{id}", "PUT", parameters=(parameter("id", "path", read=read_integer), parameter("q")), body=body(), steps=STEPS)
    paths, components = describe(document(plan, endpoint(steps=STEPS)))
    OpenAPI.model_validate({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths, "components": components})


def computed(result: dict[str, Any], **written: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a compute step whose function has the result schema `result`, and all component schemas."""
    plan = endpoint(name="x", steps={"sum": {"compute": "m:f", **written}})
    operation = replace(compute_of(plan.steps[0]), schema=result)
    plan = replace(plan, steps=(replace(plan.steps[0], operation=operation),))
    paths, components = describe(document(plan))
    made = paths[plan.path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["sum"]
    return made, components["schemas"]


def test_the_result_of_a_function_is_described() -> None:
    assert computed({"type": "integer"}, required=True)[0] == {"type": "integer", "description": "Computed."}
    assert computed({"type": "integer"})[0]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    wrapped = computed({"type": "integer"}, required=True, wrap="n")[0]
    assert wrapped["properties"] == {"n": {"type": "integer"}}


def test_a_result_changed_by_the_document_gets_no_schema() -> None:
    assert computed({"type": "object"}, required=True, target="a")[0] == {"description": "Computed."}


def test_a_recursive_result_becomes_a_component() -> None:
    made, schemas = computed({"$ref": "#/$defs/Node", "$defs": {"Node": {"type": "object"}}}, required=True)
    assert made["$ref"] == "#/components/schemas/x_sum"
    assert schemas["x_sum"]["$ref"] == "#/components/schemas/x_sum/$defs/Node"
