"""The schema of a response of which clients select parts."""

from typing import Any, Final

JSON = dict[str, Any]

_BROKEN: Final = frozenset(
    {
        "required", "minProperties", "dependentRequired", "dependentSchemas", "uniqueItems", "contains", "minContains", "maxContains", "not",
        "if", "then", "else", "unevaluatedProperties", "unevaluatedItems", "discriminator",
    }
)  # fmt: skip
"""Keywords that a part of a value may not satisfy although the whole one does."""
_OF_SCHEMAS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def loosened(schema: Any) -> Any:
    """A schema that everything satisfies which a selection leaves of a value that satisfies `schema`: nothing is required, and a single value of which
    members were selected is null."""
    if not isinstance(schema, dict):
        return schema
    loose: JSON = {}
    for key, value in schema.items():
        if key in _BROKEN:
            continue
        if key == "type":
            kinds = value if isinstance(value, list) else [value]
            loose[key] = kinds if "null" in kinds else [*kinds, "null"]
        elif key == "const":
            loose |= _of_value(value)
        elif key == "enum" and not any(isinstance(item, dict | list) for item in value):
            loose[key] = value if None in value else [*value, None]
        elif key == "enum":
            loose["allOf"] = [*loose.get("allOf", ()), {"anyOf": [*map(_of_value, value), {"type": "null"}]}]
        elif key in _OF_SCHEMAS and isinstance(value, dict):
            loose[key] = {name: loosened(below) for name, below in value.items()}
        elif key == "oneOf":
            loose["allOf"] = [*loose.get("allOf", ()), {"anyOf": [loosened(item) for item in value]}]
        elif key == "allOf":
            loose["allOf"] = [*loose.get("allOf", ()), *map(loosened, value)]
        elif key in ("anyOf", "prefixItems"):
            loose[key] = [loosened(item) for item in value]
        elif key in ("items", "additionalProperties", "propertyNames"):
            loose[key] = loosened(value)
        else:
            loose[key] = value
    return loose


def _of_value(value: Any) -> JSON:
    """The schema of what is left of a known value."""
    if isinstance(value, dict):
        return {"type": ["object", "null"], "properties": {name: _of_value(item) for name, item in value.items()}}
    if isinstance(value, list):
        return {"type": ["array", "null"]}
    return {"type": "null"} if value is None else {"enum": [value, None]}
