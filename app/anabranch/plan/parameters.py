"""Compiles the JSON Schemas of declared parameters to functions that turn a client's texts into validated values of a frame.

A number stays the text that the client sent, as JSON: a thirty-digit integer or `1.10` reaches a service as it was written. `1e400` is refused
like `inf`, because most programs read it as infinity; whole numbers written out may have any size.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from anabranch.jsontext.frame import Value
from anabranch.jsontext.proof import decode_raw
from anabranch.jsontext.values import MOST_DIGITS, load_exactly
from anabranch.plan.schema import Schema, SchemaError

Reader = Callable[[list[str]], Value]
"""Takes the texts of the parameter, one for each occurrence. Raises ValueError with a message for the client, which never quotes a text."""

_TYPES: Final = ("string", "integer", "number", "boolean", "array")
_ANNOTATIONS: Final = frozenset({"type", "title", "description", "default", "examples", "example", "deprecated", "items"})
_MOST_FAULTS: Final = 5
_MOST_LISTED: Final = 100
"""Elements of an array up to which all faults are found. Of a longer one only the first is."""


def _string(text: str) -> str:
    return text


def _integer(text: str) -> bytes:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError("must be a whole number")
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"must have at most {MOST_DIGITS} digits")
    return _without_leading_zeros(text).encode()


def _number(text: str) -> bytes:
    # A number begins and ends with a digit, apart from its sign: the decoder would take any other JSON, and white space around it.
    if text and text.isascii() and text[0] in "-0123456789" and text[-1].isdigit():
        number = _without_leading_zeros(text).encode()
        try:
            decode_raw(number)
        except msgspec.DecodeError:
            pass
        else:
            if not text.lstrip("-").isdecimal() and math.isinf(float(number)):
                raise ValueError("must be a number that is not too large: with a fraction or an exponent, at most about 1.8e308")
            return number
    raise ValueError("must be a number")


def _without_leading_zeros(text: str) -> str:
    """A number without the zeros in front that JSON does not allow."""
    sign, digits = ("-", text[1:]) if text[:1] == "-" else ("", text)
    while len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        digits = digits[1:]
    return sign + digits


def _boolean(text: str) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise ValueError("must be true or false")


_READERS: Final[dict[str, Callable[[str], Value]]] = {"string": _string, "integer": _integer, "number": _number, "boolean": _boolean}


def read_text(kind: str, text: str) -> Value:
    """A text read as a value of the type `kind`; the text itself when it is none."""
    try:
        return _READERS.get(kind, _string)(text)
    except ValueError:
        return text


def type_of(schema: dict[str, Any]) -> str:
    """The type that a parameter's text is read as. Raises SchemaError."""
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kinds = [name for name in kind if name != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind not in _TYPES:
        raise SchemaError(f"the type of a parameter must be one of {', '.join(_TYPES)}")
    return str(kind)


def compile_parameter(schema: dict[str, Any]) -> Reader:
    """A function from the client's texts to the value. Raises SchemaError."""
    kind = type_of(schema)
    check = _check(Schema(schema))
    if kind == "array":
        items = schema.get("items", {"type": "string"})
        item_kind = type_of(items) if isinstance(items, dict) else "string"
        if item_kind == "array":
            raise SchemaError("an array parameter can contain strings, numbers or booleans, not arrays")
        one = _READERS[item_kind]
        is_checked = bool(schema.keys() - _ANNOTATIONS) or not isinstance(items, dict) or bool(items.keys() - _ANNOTATIONS)

        def read_array(texts: list[str]) -> Value:
            value = [one(text) for text in texts]
            if is_checked:
                check(value)
            return value

        return read_array
    read = _READERS[kind]
    if not schema.keys() - _ANNOTATIONS:

        def read_plain(texts: list[str]) -> Value:
            if len(texts) != 1:
                raise ValueError(f"may be given only once, not {len(texts)} times")
            return read(texts[0])

        return read_plain

    def read_checked(texts: list[str]) -> Value:
        if len(texts) != 1:
            raise ValueError(f"may be given only once, not {len(texts)} times")
        value = read(texts[0])
        check(value)
        return value

    return read_checked


def _check(schema: Schema) -> Callable[[Value], None]:
    def check(value: Value) -> None:
        plain = _plain(value)
        if not schema.is_valid(plain):
            is_long = type(plain) is list and len(plain) > _MOST_LISTED
            raise ValueError(_sentence([schema.first_fault(plain)] if is_long else list(schema.faults(plain))))

    return check


def _plain(value: Value) -> Any:
    """A frame's value as a schema is checked on it. Raises ValueError."""
    if type(value) is bytes:
        return load_exactly(value)
    return [_plain(item) for item in value] if type(value) is list else value


def _sentence(faults: list[str]) -> str:
    """The faults of a parameter, to follow its name: `is not one of 1 or 2; 0: it is ...`."""
    shown = [fault.removeprefix("it ") for fault in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        shown.append(f"and {len(faults) - _MOST_FAULTS} more faults")
    return "; ".join(shown)


def check_default(schema: dict[str, Any], default: Any) -> None:
    """Raise ValueError with a message when a default does not fit its own schema."""
    compiled = Schema(schema)
    if not compiled.is_valid(default):
        raise ValueError(_sentence(list(compiled.faults(default))))
