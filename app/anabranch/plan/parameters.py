"""Compiles the JSON Schemas of declared parameters to functions that turn a client's texts into typed, validated values."""

import math
from collections.abc import Callable
from typing import Any, Final

import jsonschema_rs

Reader = Callable[[list[str]], Any]

_TYPES: Final = ("string", "integer", "number", "boolean", "array")
_ANNOTATIONS: Final = frozenset({"type", "title", "description", "default", "examples", "example", "deprecated", "items"})
_MAX_DIGITS: Final = 400
"""Longer integers are rejected: parsing them takes time quadratic in their length."""


class SchemaError(ValueError):
    """A JSON Schema in the document cannot be used. The message is for the operator."""


def _no_fetch(uri: str) -> Any:
    raise ValueError(f"a schema can refer only to parts of itself, not to {uri}")


def validator(schema: dict[str, Any] | bool) -> Any:
    """A compiled validator of a JSON Schema (2020-12; formats are checked). Nothing is fetched. Raises SchemaError."""
    try:
        return jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_no_fetch)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaError(f"not a valid JSON Schema: {str(error).splitlines()[0]}") from None


def _string(text: str) -> str:
    return text


def _integer(text: str) -> int:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MAX_DIGITS:
        raise ValueError("must be a whole number")
    return int(text)


def _number(text: str) -> int | float:
    try:
        return _integer(text)
    except ValueError:
        pass
    if text and text.isascii() and text[0] in "-0123456789" and "_" not in text and not text[-1].isspace():
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            if math.isfinite(number):
                return number
    raise ValueError("must be a number")


def _boolean(text: str) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise ValueError("must be true or false")


_READERS: Final[dict[str, Callable[[str], Any]]] = {"string": _string, "integer": _integer, "number": _number, "boolean": _boolean}


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kinds = [name for name in kind if name != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind not in _TYPES:
        raise SchemaError(f"the type of a parameter must be one of {', '.join(_TYPES)}")
    return str(kind)


def compile_parameter(schema: dict[str, Any]) -> Reader:
    """A function from the client's texts to the value. The function raises ValueError with a message for the client. Raises SchemaError."""
    kind = _type_of(schema)
    check = _check(schema)
    if kind == "array":
        items = schema.get("items", {"type": "string"})
        item_kind = _type_of(items) if isinstance(items, dict) else "string"
        if item_kind == "array":
            raise SchemaError("an array parameter can contain strings, numbers or booleans, not arrays")
        one = _READERS[item_kind]

        def read_array(texts: list[str]) -> Any:
            value = [one(text) for text in texts]
            check(value)
            return value

        return read_array
    read = _READERS[kind]
    if not schema.keys() - _ANNOTATIONS:

        def read_plain(texts: list[str]) -> Any:
            if len(texts) != 1:
                raise ValueError(f"may be given only once, not {len(texts)} times")
            return read(texts[0])

        return read_plain

    def read_checked(texts: list[str]) -> Any:
        if len(texts) != 1:
            raise ValueError(f"may be given only once, not {len(texts)} times")
        value = read(texts[0])
        check(value)
        return value

    return read_checked


def _check(schema: dict[str, Any]) -> Callable[[Any], None]:
    compiled = validator(schema)
    is_valid = compiled.is_valid

    def check(value: Any) -> None:
        if not is_valid(value):
            raise ValueError("; ".join(error.message for error in compiled.iter_errors(value)))

    return check


def compile_default(schema: dict[str, Any], default: Any) -> Any:
    """The default, after validating it against its own schema. Raises ValueError with a message."""
    _check(schema)(default)
    return default
