"""JSON Schemas of parameters and bodies, compiled, and what they find wrong: where and by which rule, never the value itself.

A value may be a password, and sentences are logged, recorded and shown. A sentence therefore names only what the schema says: its limits, and the
names that it declares.
"""

from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs

from anabranch.jsontext.path import path_text

_MOST_CHARS: Final = 300
_MASK: Final = "it"
_OTHER: Final = "*"
"""Stands for a member's name that the schema does not declare: the client made it up."""
_UNNAMED: Final = {
    "additionalProperties": "it has members that are not declared",
    "unevaluatedProperties": "it has members that are not declared",
    "additionalItems": "it has more elements than are declared",
    "unevaluatedItems": "it has more elements than are declared",
    "propertyNames": "the name of one of its members is not allowed",
    "contains": "too few or too many of its elements are as required",
    "falseSchema": "it is not allowed here",
    "not": "it is as it must not be",
}
"""Sentences for the rules whose own sentences quote names or whole schemas."""


class SchemaError(ValueError):
    """A JSON Schema in the document cannot be used. The message is for the operator."""


class Schema:
    """One schema, of JSON Schema 2020-12; formats are checked. Nothing is fetched. Raises SchemaError."""

    __slots__ = ("_names", "_validator", "is_valid")

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_no_fetch, mask=_MASK)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise SchemaError(f"not a valid JSON Schema: {str(error).splitlines()[0]}") from None
        self._names = frozenset(_declared(schema))
        self.is_valid = self._validator.is_valid
        """Whether a value fits. Cheaper than to ask for its faults."""

    def faults(self, value: Any) -> Iterator[str]:
        """What is wrong with a value, one sentence for each fault. All of them are found at once, in about 20 us each."""
        return map(self._sentence, self._validator.iter_errors(value))

    def first_fault(self, value: Any) -> str:
        """The first fault of a value that does not fit, in about 70 us whatever its size."""
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return self._sentence(error)
        raise AssertionError("the value fits")

    def _sentence(self, error: jsonschema_rs.ValidationError) -> str:
        rule = error.kind.name
        sentence = _UNNAMED.get(rule, error.message)
        where = path_text(tuple(_OTHER if isinstance(part, str) and part not in self._names else str(part) for part in error.instance_path))
        whole = f"{where}: {sentence}" if where else sentence
        return whole if len(whole) <= _MOST_CHARS else f"{whole[:_MOST_CHARS]}..."


def _no_fetch(uri: str) -> Any:
    raise ValueError(f"a schema can refer only to parts of itself, not to {uri}")


def _declared(schema: Any) -> Iterator[str]:
    """The names of members that occur in a schema."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties" and isinstance(value, dict):
                yield from value
            yield from _declared(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _declared(item)
