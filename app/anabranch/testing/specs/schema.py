"""The JSON Schema of spec files, which lets editors complete, describe and check them."""

from typing import Any, Final

from anabranch.config.docstrings import DescribedSchema
from anabranch.testing.specs.model import SpecFile

ID: Final = "urn:anabranch:specs:1"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def spec_schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, as a new object. It matches `anabranch.testing.specs.model`."""
    raw = _plain(SpecFile.model_json_schema(by_alias=True, schema_generator=DescribedSchema))
    definitions: dict[str, Any] = raw.pop("$defs")
    # A single behaviour, or answer, may stand where a list of them is expected.
    routes = definitions["Script"]["properties"]["routes"]
    routes["additionalProperties"] = _one_or_more(routes["additionalProperties"])
    answers = definitions["Sent"]["properties"]["expect"]
    definitions["Sent"]["properties"]["expect"] = {"description": answers["description"], **_one_or_more(answers)}
    # The routes of a script may stand alone.
    script = definitions["Script"]
    definitions["Script"] = {
        "description": script.pop("description"),
        "anyOf": [script, {name: value for name, value in routes.items() if name not in ("description", "default")}],
    }
    return {"$schema": _DIALECT, "$id": ID, "title": "Anabranch execution specs", **raw, "$defs": definitions}


def _one_or_more(many: dict[str, Any]) -> dict[str, Any]:
    listed = next((member for member in many.get("anyOf", []) if member.get("type") == "array"), many)
    return {"anyOf": [listed["items"], {name: listed[name] for name in ("type", "items", "minItems") if name in listed}]}


def _plain(schema: Any) -> Any:
    """The schema without the titles that pydantic derives from the names in Python, and without null where a key may be left out."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("description"), str):
        schema = {**schema, "description": schema["description"].replace("\n", " ")}
    if "properties" in schema:
        schema = {**schema, "properties": {name: _key(value) for name, value in schema["properties"].items()}}
    if "patternProperties" in schema:
        # `patternProperties` alone would accept any other key, so the pattern becomes a rule for all keys.
        ((pattern, inner),) = schema["patternProperties"].items()
        rest = {name: value for name, value in schema.items() if name != "patternProperties"}
        schema = {**rest, "propertyNames": {"pattern": pattern}, "additionalProperties": inner}
    return {name: _plain(value) for name, value in schema.items() if not (name == "title" and isinstance(value, str))}


def _key(schema: dict[str, Any]) -> dict[str, Any]:
    """A key of a mapping. A default of null says only that the key may be left out."""
    if schema.get("default", 0) is not None:
        return schema
    schema = {name: value for name, value in schema.items() if name != "default"}
    members = [member for member in schema.get("anyOf", []) if member != {"type": "null"}]
    if len(members) == 1:
        return {**members[0], **{name: value for name, value in schema.items() if name != "anyOf"}}
    return {**schema, "anyOf": members} if members else schema
