"""Describes the endpoints of a document in OpenAPI 3.1. Pure: the same plan gives the same description.

The response of an upstream is unknown, so a step's value is described as any JSON, with the names that `pick`, `rename` and `wrap` imply.
The value of a compute is described when its function has a return annotation. What the gateway itself produces (the object around the
steps, header fields, problems) is described exactly.
"""

from typing import Any, Final

from anabranch.config.base import ALL
from anabranch.describe.responses import HEADERS, OF_FAN_OUT, PROBLEMS, describe_responses, problem_response, reference_to
from anabranch.describe.schemas import response_schema
from anabranch.describe.security import is_parameter, requirements
from anabranch.describe.select import loosened
from anabranch.plan.kinds.call import forwarded_query
from anabranch.plan.model import DocumentPlan, EndpointPlan, ParameterPlan

JSON = dict[str, Any]

_REST: Final = (
    "All remaining segments of the path, with `/` between them; their encoding is kept, so that a `/` that a tool encodes as `%2F` is part of one "
    "segment. The first segment must not be empty, and none of them `.` or `..`."
)
_OF_BODIES: Final[dict[str, JSON]] = {"json": {}, "form": {"type": "object"}, "multipart": {"type": "object"}, "text": {"type": "string"}}
"""What is true of each kind of body, whatever its schema says."""
_PROBLEM: Final[JSON] = {
    "type": "object",
    "description": "A problem document (RFC 9457). `type` is the address of a page that explains the problem. Some problems have further members.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "examples": ["/problems/timeout"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The id of the request."},
        "available": {"type": "array", "description": "Of a 406: the media types that there are.", "items": {"type": "string"}},
        "errors": {
            "type": "array",
            "description": "One entry for each failed step, or for each fault in the request.",
            "items": {
                "type": "object",
                "properties": {
                    "step": {"type": "string"},
                    "upstream": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                    "attempts": {"type": "integer", "minimum": 0},
                    "elapsed_ms": {"type": "number", "minimum": 0},
                    "in": {"type": "string", "enum": ["path", "query", "header", "cookie", "body"]},
                    "name": {"type": "string"},
                },
            },
        },
    },
}


_FORWARDED: Final[JSON] = {
    "in": "query",
    "required": False,
    "description": "Passed on as it is sent. May be repeated.",
    "schema": {"type": "string"},
}


def describe(document: DocumentPlan, problem_name: str = "Problem") -> tuple[JSON, JSON]:
    """`paths` and `components` for all endpoints. `problem_name`: name of the schema of problem documents."""
    paths: JSON = {}
    schemas: JSON = {problem_name: _PROBLEM}
    schemes: JSON = {}
    for plan, template in zip(document.endpoints, _templates(document), strict=True):
        access = {} if plan.access is None else {name: document.auth[name].kind.scheme() for name in plan.access.names}
        paths.setdefault(template, {})[plan.method.lower()] = _operation(plan, template, schemas, access, schemes, problem_name)
    responses = {name: problem_response(status, description, problem_name) for status, (name, description) in PROBLEMS.items()}
    components: JSON = {"schemas": schemas, "responses": responses, "headers": HEADERS}
    return paths, {**components, "securitySchemes": schemes} if schemes else components


def add_failures(operation: JSON, *, has_fan_out: bool) -> None:
    """Add to a route in Python the failures that it does not describe itself: 500, and those of its fan-out."""
    responses: JSON = operation.setdefault("responses", {})
    for status in OF_FAN_OUT if has_fan_out else ("500",):
        responses.setdefault(status, reference_to(status))


def _operation(plan: EndpointPlan, template: str, schemas: JSON, access: JSON, schemes: JSON, problem_name: str) -> JSON:
    source = plan.source
    parameters = [*plan.path_parameters, *plan.query_parameters, *plan.header_parameters, *plan.cookie_parameters]
    operation: JSON = {"operationId": plan.name}
    if source.summary:
        operation["summary"] = source.summary
    if source.description:
        operation["description"] = source.description
    if source.tags:
        operation["tags"] = list(source.tags)
    described = [_parameter(plan, parameter, template, schemas) for parameter in parameters if is_parameter(parameter)]
    described += [_FORWARDED | {"name": name} for name in _forwarded_names(plan)]
    if described:
        operation["parameters"] = described
    if security := requirements(parameters, access, schemes):
        operation["security"] = security
    if plan.body is not None:
        body = plan.body.source
        schema = body.schema_ if body is not None and isinstance(body.schema_, dict) else {}
        schema = _OF_BODIES[plan.body.kind] | schema
        operation["requestBody"] = {
            **({"description": body.description} if body is not None and body.description else {}),
            "required": plan.body.is_required,
            "content": {plan.body.media_type.decode(): {"schema": _embedded(schema, f"{plan.name}_body", schemas)}},
        }
    operation["responses"] = describe_responses(plan, _response_schema(plan, schemas), problem_name, has_parameters=bool(parameters))
    return operation


def _forwarded_names(plan: EndpointPlan) -> list[str]:
    """The query parameters that are passed on and not declared."""
    names = dict.fromkeys(name for step in plan.steps for name in forwarded_query(step) if name != ALL)
    return [name for name in names if all(name != parameter.name for parameter in plan.query_parameters)]


def _templates(document: DocumentPlan) -> list[str]:
    """The path of each endpoint as a template of OpenAPI, in which `{rest...}` is a parameter like others: `{rest}`, or a name that no other
    endpoint has there."""
    taken = {plan.path for plan in document.endpoints}
    templates = []
    for plan in document.endpoints:
        template = plan.path
        if plan.segments[-1].is_rest:
            template = f"{plan.path[:-4]}}}"
            if template in taken:
                template = f"{plan.path[:-4]}_and_below}}"
        templates.append(template)
    return templates


def _parameter(plan: EndpointPlan, parameter: ParameterPlan, template: str, schemas: JSON) -> JSON:
    source = parameter.source
    schema = _embedded(source.schema_, f"{plan.name}_{parameter.location}_{parameter.name}", schemas)
    if "default" in source.model_fields_set and "default" not in schema:
        schema = {**schema, "default": source.default}
    is_rest = parameter.segment >= 0 and plan.segments[parameter.segment].is_rest
    description = " ".join(filter(None, (source.description, _REST if is_rest else "")))
    return {
        "name": template[template.rindex("{") + 1 : -1] if is_rest else parameter.name,
        "in": parameter.location,
        "required": parameter.is_required,
        **({"description": description} if description else {}),
        "schema": schema,
    }


def _response_schema(plan: EndpointPlan, schemas: JSON) -> JSON:
    if plan.select is None:
        return response_schema(plan, lambda step, schema: _embedded(schema, f"{plan.name}_{step}", schemas))
    whole = response_schema(plan, lambda step, schema: _embedded(loosened(schema), f"{plan.name}_{step}", schemas))
    return {**loosened(whole), **({"type": "object"} if whole.get("type") == "object" else {})}


def _embedded(schema: JSON, name: str, schemas: JSON) -> JSON:
    """The schema in a form that can be embedded in the description: one that refers to itself becomes a component, so that its `#` references hold."""
    if not _has_local_reference(schema):
        return schema
    key = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
    schemas[key] = _rebased(schema, f"#/components/schemas/{key}")
    return {"$ref": f"#/components/schemas/{key}"}


def _has_local_reference(value: Any) -> bool:
    if isinstance(value, dict):
        reference = value.get("$ref")
        return (isinstance(reference, str) and reference.startswith("#")) or any(_has_local_reference(item) for item in value.values())
    return isinstance(value, list) and any(_has_local_reference(item) for item in value)


def _rebased(value: Any, base: str) -> Any:
    if isinstance(value, dict):
        return {
            key: base + item[1:] if key == "$ref" and isinstance(item, str) and item.startswith("#") else _rebased(item, base)
            for key, item in value.items()
        }
    return [_rebased(item, base) for item in value] if isinstance(value, list) else value
