"""JSON Schema of a response, from the plan alone. Makes no claim that an upstream's answer could break."""

from collections.abc import Callable
from typing import Any

from anabranch.config import model as config
from anabranch.plan.model import EndpointPlan, StepPlan

JSON = dict[str, Any]
Embed = Callable[[str, JSON], JSON]
"""Takes a step's name and schema; returns the schema in a form that can be embedded in the description."""


def response_schema(plan: EndpointPlan, embed: Embed) -> JSON:
    """Schema of the merged response."""
    response = plan.source.response
    if "body" in response.model_fields_set:
        return _template(response.body)
    visible = [(step.name, step.source) for step in plan.steps if not step.is_hidden]
    if response.merge == "group":
        return {
            "type": "object",
            "required": [name for name, _ in visible],
            "properties": {step.name: _step(step.source, _computed(step, embed)) for step in plan.steps if not step.is_hidden},
        }
    known: JSON = {}
    for _, step in visible:
        known.update({name: {} for name in _value(step, {}).get("properties", {})})
    return {"type": "object", **({"properties": known} if known else {})}


def _computed(step: StepPlan, embed: Embed) -> JSON:
    """The schema of a function's result, if the result reaches the response unchanged; {} if nothing is known."""
    source = step.source
    if step.compute is None or step.compute.result_schema is None or source.target or source.pick or source.drop or source.rename:
        return {}
    return embed(step.name, step.compute.result_schema)


def _step(step: config.Step, computed: JSON) -> JSON:
    """The schema of a step's value. The value of a failed optional step is its default, so the schema allows that too."""
    value = _value(step, computed)
    kind = f"From {step.upstream}." if step.upstream else "Computed."
    if step.required:
        return {**value, "description": kind}
    default: JSON = {"type": "null"} if step.default is None else {"const": step.default}
    described = f"{kind} Optional: {'null' if step.default is None else 'its default'} when it fails."
    if "type" not in value and not computed:
        return {**value, "description": described}
    return {"anyOf": [value, default], "description": described}


def _value(step: config.Step, computed: JSON) -> JSON:
    """Without `type`, unless a function declares it or `wrap` makes an object: `pick` also applies inside arrays and passes other values through."""
    value: JSON = dict(computed)
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
    """The schema of a template's literal parts; a reference may be any JSON."""
    if isinstance(value, dict):
        return {"type": "object", "required": list(value), "properties": {name: _template(item) for name, item in value.items()}}
    if isinstance(value, list):
        return {"type": "array"}
    if isinstance(value, str):
        return {"type": "string"} if "{" not in value.replace("{{", "") else {}
    return {"const": value}
