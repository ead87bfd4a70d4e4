"""The JSON Schema of the gateway document, which lets editors complete, describe and check the document.

It matches `anabranch.config.model`, with two differences: `${...}` is accepted wherever a value can be substituted, and the defaults are in
the units of the document. `anabranch check` finds more mistakes than any schema can.

**Source:** JSON Schema 2020-12.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from anabranch.config.docstrings import DescribedSchema
from anabranch.config.model import Document, Model
from anabranch.describe.document_catalogue import keys, kinds, sections

ID: Final = "urn:anabranch:document:1"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SUBSTITUTION: Final = {
    "type": "string",
    "pattern": r"\$\{[^}]+\}",
    "description": "A value from the environment, `${NAME}` or `${NAME:-default}`, or from a secret file, `${file:PATH}`.",
}
_NULL: Final = {"type": "null"}
_REFERENCE: Final = {"$ref": "#/$defs/Substitution"}
# Keywords that describe a value instead of restricting it. They stay beside the alternatives, where editors look for them.
_ANNOTATIONS: Final = frozenset({"description", "default", "examples", "title"})


def document_schema() -> dict[str, Any]:
    """The JSON Schema of the whole document, as a new object."""
    _, raw = models_json_schema([(model, "validation") for model in sections()], by_alias=True, schema_generator=DescribedSchema)
    definitions = {model.__name__: _section(model, raw["$defs"][model.__name__]) for model in sections()}
    top = definitions.pop(Document.__name__)
    return {
        "$schema": _DIALECT,
        "$id": ID,
        "title": "Anabranch gateway document",
        **top,
        "$defs": {**definitions, "Substitution": dict(_SUBSTITUTION)},
    }


def _section(model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of one model, with substitutions allowed in its values. Of a model that has kinds: a choice between these."""
    if found := kinds(model):
        return {"description": schema["description"], "anyOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in found.values()]}
    properties = {name: _value(value) for name, value in schema["properties"].items()}
    for key in keys(model):
        described = properties[key.name]
        described.pop("default", None)
        if key.meaning:
            described["description"] = key.meaning
        if key.has_default:
            described["default"] = key.default
    section = {**{name: value for name, value in schema.items() if name != "title"}, "properties": properties}
    if issubclass(model, Model) and model.shorthand is not None:
        section["type"] = ["object", "string"]
    return section


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of one value, without the title that pydantic derives from the Python name, and accepting `${...}` where the type does not."""
    schema = {name: value for name, value in schema.items() if name != "title"}
    if isinstance(schema.get("items"), dict):
        schema["items"] = _value(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _entry(schema["additionalProperties"])
    if "patternProperties" in schema:
        # `patternProperties` alone would accept any other key, so the pattern becomes a rule for all keys.
        ((pattern, inner),) = schema.pop("patternProperties").items()
        schema["propertyNames"] = {**schema.get("propertyNames", {}), "pattern": pattern}
        schema["additionalProperties"] = _entry(inner)
    if "anyOf" in schema:
        members = [_value(member) for member in schema["anyOf"] if member != _NULL]
        flat = [inner for member in members for inner in (member["anyOf"] if set(member) <= {"anyOf", *_ANNOTATIONS} else [member])]
        unique = [member for index, member in enumerate(flat) if member not in flat[:index]]
        described = {name: value for member in members for name, value in member.items() if name in _ANNOTATIONS}
        schema = {**described, **{name: value for name, value in schema.items() if name != "anyOf"}}
        return {**schema, "anyOf": unique} if len(unique) > 1 else {**schema, **unique[0]}
    if not _is_strict(schema):
        return schema
    outside = {name: value for name, value in schema.items() if name in _ANNOTATIONS}
    inside = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
    return {**outside, "anyOf": [inside, dict(_REFERENCE)]}


def _entry(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value of a mapping. Null may mean something there; as the value of a key of ours it says what leaving the key out says."""
    value = _value(schema)
    return {"anyOf": [*value.get("anyOf", [value]), _NULL]} if _NULL in schema.get("anyOf", ()) else value


def _is_strict(schema: dict[str, Any]) -> bool:
    """Whether the schema rejects the string `${...}`, although a substitution is allowed there."""
    if schema.get("type") == "string":
        return "pattern" in schema or "enum" in schema
    return schema.get("type") in ("integer", "number", "boolean") or "const" in schema or "enum" in schema
