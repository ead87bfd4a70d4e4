"""What can be said about a response before any upstream has answered, as JSON Schema. Claims nothing that an upstream could break."""

from typing import Any

from app.config import model as config
from app.plan.model import EndpointPlan

JSON = dict[str, Any]


def response_schema(plan: EndpointPlan) -> JSON:
    """Schema of the merged response."""
    response = plan.source.response
    if "body" in response.model_fields_set:
        return _template(response.body)
    visible = [(name, step) for name, step in plan.source.steps.items() if not step.hidden]
    if response.merge == "group":
        return {
            "type": "object",
            "required": [name for name, _ in visible],
            "properties": {name: _step(step) for name, step in visible},
        }
    known: JSON = {}
    for _, step in visible:
        known.update({name: {} for name in _value(step).get("properties", {})})
    return {"type": "object", **({"properties": known} if known else {})}


def _step(step: config.Step) -> JSON:
    """A failed optional step has its default, so that must fit as well."""
    value = _value(step)
    kind = f"From {step.upstream}." if step.upstream else "Computed."
    if step.required:
        return {**value, "description": kind}
    default: JSON = {"type": "null"} if step.default is None else {"const": step.default}
    described = f"{kind} Optional: {'null' if step.default is None else 'its default'} when it fails."
    if "type" not in value:
        return {**value, "description": described}
    return {"anyOf": [value, default], "description": described}


def _value(step: config.Step) -> JSON:
    """No `type` unless the gateway makes the object itself: `pick` goes into arrays, and lets anything else through."""
    value: JSON = {}
    if step.pick is not None:
        for path in step.pick:
            _grow(value, _renamed(tuple(path.split(".")), step.rename or {}))
    if step.wrap is not None:
        value = {"type": "object", "required": [step.wrap], "properties": {step.wrap: value}}
    return value


def _renamed(path: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    return tuple(names.get(".".join(path[: index + 1]), name) for index, name in enumerate(path))


def _grow(schema: JSON, path: tuple[str, ...]) -> None:
    for name in path:
        schema = schema.setdefault("properties", {}).setdefault(name, {})


def _template(value: Any) -> JSON:
    """The literal parts of a template; what a reference brings is any JSON."""
    if isinstance(value, dict):
        return {"type": "object", "required": list(value), "properties": {name: _template(item) for name, item in value.items()}}
    if isinstance(value, list):
        return {"type": "array"}
    if isinstance(value, str):
        return {"type": "string"} if "{" not in value.replace("{{", "") else {}
    return {"const": value}
