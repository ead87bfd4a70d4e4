"""Describes the endpoints of a document in OpenAPI 3.1. Pure: the same plan gives the same description.

The response of an upstream is unknown, so a step's value is described as any JSON, with the names that `pick`, `rename` and `wrap` imply.
The value of a compute is described when its function has a return annotation. What the gateway itself produces (the object around the
steps, header fields, problems) is described exactly.
"""

from typing import Any, Final

from anabranch.config.base import ALL
from anabranch.describe.schemas import response_schema
from anabranch.describe.security import is_parameter, requirements
from anabranch.describe.select import loosened
from anabranch.plan.kinds.call import forwarded_query
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.model import DocumentPlan, EndpointPlan, ParameterPlan

JSON = dict[str, Any]

_HEADERS: Final[JSON] = {
    "Gateway-Complete": {
        "description": "`?1`: every step succeeded. `?0`: the response is partial, because an optional step failed or a step has a stale answer (a structured boolean, RFC 9651).",
        "required": True,
        "schema": {"type": "string", "enum": ["?1", "?0"]},
    },
    "Server-Timing": {
        "description": "Duration of each step in milliseconds; of a compute also `queue` and `run`. `desc` is the code of a failure, or `stale` (W3C Server Timing).",
        "schema": {"type": "string"},
    },
    "Proxy-Status": {"description": "The reason of each failed step, one member per step (RFC 9209).", "schema": {"type": "string"}},
    "X-Request-Id": {
        "description": "The id of the request: the client's, or a generated one.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_PROBLEMS: Final = {
    "400": ("BadRequest", "The parameters or the body are invalid; `errors` lists every fault."),
    "404": ("NotFound", "No such endpoint: a path parameter is empty or a dot segment."),
    "406": (
        "NotAcceptable",
        "The `Accept` field of the request does not allow the media type of the response; `available` lists what there is.",
    ),
    "408": ("BodyTimeout", "The request body did not arrive before the request's deadline."),
    "413": ("BodyTooLarge", "The request body exceeds the endpoint's size limit."),
    "415": ("UnsupportedMediaType", "The content type of the request body is not JSON, or the body has a content coding."),
    "4XX": (
        "UpstreamRefusal",
        (
            "The upstream of a required step, or every upstream, answered with a 4xx status, which is passed on; or a function of the operator refused "
            "the request."
        ),
    ),
    "500": ("InternalError", "Unexpected error in the gateway, or in a Python function of its operator."),
    "502": ("BadGateway", "A required step failed, or no upstream answered."),
    "503": (
        "ServiceUnavailable",
        "The gateway or an upstream is overloaded or unavailable, or the response could not be recorded; retry later.",
    ),
    "504": ("GatewayTimeout", "A required step, or every step, timed out."),
}
_OF_FAN_OUT: Final = ("4XX", "500", "502", "503", "504")
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
    for plan in document.endpoints:
        paths.setdefault(plan.path, {})[plan.method.lower()] = _operation(plan, schemas, schemes)
    responses = {name: _problem_response(status, description, problem_name) for status, (name, description) in _PROBLEMS.items()}
    components: JSON = {"schemas": schemas, "responses": responses, "headers": _HEADERS}
    return paths, {**components, "securitySchemes": schemes} if schemes else components


def add_failures(operation: JSON, *, has_fan_out: bool) -> None:
    """Add to a route in Python the failures that it does not describe itself: 500, and those of its fan-out."""
    responses: JSON = operation.setdefault("responses", {})
    for status in _OF_FAN_OUT if has_fan_out else ("500",):
        responses.setdefault(status, _reference(status))


def _operation(plan: EndpointPlan, schemas: JSON, schemes: JSON) -> JSON:
    source = plan.source
    parameters = [*plan.path_parameters, *plan.query_parameters, *plan.header_parameters]
    operation: JSON = {"operationId": plan.name}
    if source.summary:
        operation["summary"] = source.summary
    if source.description:
        operation["description"] = source.description
    if source.tags:
        operation["tags"] = list(source.tags)
    described = [_parameter(plan, parameter, schemas) for parameter in parameters if is_parameter(parameter)]
    described += [_FORWARDED | {"name": name} for name in _forwarded_names(plan)]
    if described:
        operation["parameters"] = described
    if security := requirements(parameters, schemes):
        operation["security"] = security
    if plan.body is not None:
        body = plan.body.source
        schema = body.schema_ if body is not None and isinstance(body.schema_, dict) else {}
        operation["requestBody"] = {
            **({"description": body.description} if body is not None and body.description else {}),
            "required": plan.body.is_required,
            "content": {"application/json": {"schema": _embedded(schema, f"{plan.name}_body", schemas)}},
        }
    operation["responses"] = {str(plan.response.status): _success(plan, schemas), **_failures(plan, has_parameters=bool(parameters))}
    return operation


def _forwarded_names(plan: EndpointPlan) -> list[str]:
    """The query parameters that are passed on and not declared."""
    names = dict.fromkeys(name for step in plan.steps for name in forwarded_query(step) if name != ALL)
    return [name for name in names if all(name != parameter.name for parameter in plan.query_parameters)]


def _parameter(plan: EndpointPlan, parameter: ParameterPlan, schemas: JSON) -> JSON:
    source = parameter.source
    schema = _embedded(source.schema_, f"{plan.name}_{parameter.location}_{parameter.name}", schemas)
    if "default" in source.model_fields_set and "default" not in schema:
        schema = {**schema, "default": source.default}
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.is_required,
        **({"description": source.description} if source.description else {}),
        "schema": schema,
    }


def _success(plan: EndpointPlan, schemas: JSON) -> JSON:
    fixed = {name.decode("latin-1"): value.decode("latin-1") for name, value in plan.response.headers if name != b"content-type"}
    headers: JSON = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
    headers.update({name: {"schema": {"type": "string", "const": value}} for name, value in sorted(fixed.items())})
    if "cache-control" in headers:
        headers["cache-control"] = {
            "description": "`no-store` on a partial response, which also has no other field for caches.",
            "schema": {"type": "string", "enum": list(dict.fromkeys([fixed["cache-control"], "no-store"]))},
        }
    if (compression := plan.response.compression) is not None:
        headers.pop("vary", None)
        headers["Vary"] = {"description": "Names `Accept-Encoding`.", "schema": {"type": "string"}}
        headers["Content-Encoding"] = {
            "description": f"Of a body of {compression.min_size_bytes} bytes or more, for clients that accept it.",
            "schema": {"type": "string", "enum": list(compression.codings)},
        }
    response: JSON = {"description": "The merged values of the steps.", "headers": headers}
    if (media_type := plan.response.media_type) is not None:
        response["content"] = {media_type: {"schema": _response_schema(plan, schemas)}}
    return response


def _response_schema(plan: EndpointPlan, schemas: JSON) -> JSON:
    if plan.select is None:
        return response_schema(plan, lambda step, schema: _embedded(schema, f"{plan.name}_{step}", schemas))
    whole = response_schema(plan, lambda step, schema: _embedded(loosened(schema), f"{plan.name}_{step}", schemas))
    return {**loosened(whole), **({"type": "object"} if whole.get("type") == "object" else {})}


def _failures(plan: EndpointPlan, *, has_parameters: bool) -> JSON:
    statuses = ["500", "502", "503", "504"]
    if has_parameters or plan.body is not None:
        statuses.append("400")
    if plan.is_negotiated:
        statuses.append("406")
    if plan.path_parameters:
        statuses.append("404")
    if plan.body is not None:
        statuses += ["408", "413", "415"]
    if any(step.upstream or isinstance(step.operation, ComputePlan) for step in plan.steps):
        statuses.append("4XX")
    return {status: _reference(status) for status in sorted(statuses)}


def _reference(status: str) -> JSON:
    return {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"}


def _problem_response(status: str, description: str, problem_name: str) -> JSON:
    headers: JSON = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status in ("503", "4XX"):
        headers["Retry-After"] = {"description": "Seconds after which to retry.", "schema": {"type": "string"}}
    if status == "4XX":
        headers["WWW-Authenticate"] = {"description": "Of a 401: how to authenticate.", "schema": {"type": "string"}}
        headers["Allow"] = {"description": "Of a 405: the methods that are allowed.", "schema": {"type": "string"}}
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{problem_name}"}}}
    return {"description": description, "headers": headers, "content": content}


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
