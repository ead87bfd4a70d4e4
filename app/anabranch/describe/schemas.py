"""JSON Schema of a response, from the plan alone. Makes no claim that an upstream's answer could break."""

from collections.abc import Callable
from typing import Any, Final

from anabranch.config import model as config
from anabranch.jsontext.path import Path, parse_path
from anabranch.plan.model import EndpointPlan, StepPlan

JSON = dict[str, Any]
Embed = Callable[[str, JSON], JSON]
"""Takes a step's name and schema; returns the schema in a form that can be embedded in the description."""


_FAILURES: Final[JSON] = {
    "type": "array",
    "description": "The steps that failed. Missing if none did.",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["step", "code", "status", "body"],
        "properties": {
            "step": {"type": "string"},
            "code": {"type": "string"},
            "status": {"type": ["integer", "null"], "description": "What the service answered."},
            "body": {"description": "What the service sent: JSON, the beginning of a text, or null."},
        },
    },
}


def response_schema(plan: EndpointPlan, embed: Embed) -> JSON:
    """Schema of the merged response."""
    schema = _merged(plan, embed)
    rule = plan.response.failures
    if rule is not None:
        # Merged by keys, a service's member of that name may stand there when nothing failed.
        shown = _FAILURES if plan.response.merge_order == "" else {"description": _FAILURES["description"]}
        schema = {**schema, "properties": {**schema.get("properties", {}), rule.key: shown}}
    return schema


def _merged(plan: EndpointPlan, embed: Embed) -> JSON:
    response = plan.source.response
    if "body" in response.model_fields_set:
        return _template(response.body)
    if response.merge == "concat":
        return {"type": "array"}
    visible = [step for step in plan.steps if not step.is_hidden]
    if response.merge == "group":
        return {
            "type": "object",
            "required": [step.name for step in visible if not step.may_be_left_out],
            "properties": {step.name: _step(step, _computed(step, embed), is_named=plan.numbers is None) for step in visible},
        }
    known: JSON = {}
    for step in visible:
        known.update({name: {} for name in _value(step.source, {}).get("properties", {})})
    return {"type": "object", **({"properties": known} if known else {})}


def _computed(step: StepPlan, embed: Embed) -> JSON:
    """The schema of a function's result, if the result reaches the response unchanged; {} if nothing is known."""
    source = step.source
    schema = step.operation.result_schema()
    if schema is None or source.target or source.pick or source.drop or source.rename:
        return {}
    return embed(step.name, schema)


def _step(plan: StepPlan, computed: JSON, *, is_named: bool) -> JSON:
    """The schema of a step's value. The value of a failed optional step is its default, so the schema allows that too. `is_named`: whether the
    name of its service is public."""
    step = plan.source
    value = _value(step, computed)
    described = f"From {plan.upstream if is_named else 'a service'}." if plan.upstream else step.described
    if not step.required:
        described += f" Optional: {'null' if step.default is None else 'its default'} when it fails."
    if plan.may_be_left_out:
        described += " Left out when a condition does not hold."
    if step.required and "default" not in step.model_fields_set:
        return {**value, "description": described}
    default: JSON = {"type": "null"} if step.default is None else {"const": step.default}
    if "type" not in value and not computed:
        return {**value, "description": described}
    return {"anyOf": [value, default], "description": described}


def _value(step: config.Step, computed: JSON) -> JSON:
    """Without `type`, unless a function declares it or `wrap` makes an object: `pick` also applies inside arrays and passes other values through."""
    if step.fallback is not None:
        return {}  # the value of another step may stand here
    value: JSON = dict(computed)
    if step.pick is not None:
        names = {parse_path(old): new for old, new in (step.rename or {}).items()}
        for path in step.pick:
            _grow(value, _renamed(parse_path(path), names))
    if step.each is not None:
        value = {"type": "array", "items": value if "default" not in step.model_fields_set and step.required else {}}
    if step.wrap is not None:
        value = {"type": "object", "required": [step.wrap], "properties": {step.wrap: value}}
    return value


def _renamed(path: Path, names: dict[Path, str]) -> Path:
    return tuple(parse_path(names[above])[0] if (above := path[: index + 1]) in names else name for index, name in enumerate(path))


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
