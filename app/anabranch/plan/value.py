"""Converts values in a frame to text and to JSON. JSON text (`bytes`) keeps its exact spelling unless it is decoded."""

from typing import Any, Final

import msgspec

from anabranch.jsontext.frame import MISSING, Value
from anabranch.jsontext.values import write

_text_of_json: Final = msgspec.json.Decoder(str).decode

QUOTE: Final = 0x22
BRACE: Final = 0x7B
BRACKET: Final = 0x5B


def of_document(value: Any) -> Value:
    """A value that the document gives, as it is in a frame."""
    return value if isinstance(value, str) else write(value)


def as_json(value: Any) -> bytes:
    """JSON text of a value other than MISSING."""
    if type(value) is bytes:
        return value
    if type(value) is list:
        return b"[" + b",".join([as_json(item) for item in value]) + b"]"
    return write(value)


def as_text(value: Any) -> str | None:
    """Text of a scalar: strings without quotes, numbers in their own spelling, `true` and `false`.

    None for MISSING, null, arrays and objects.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is bytes:
        first = value[0]
        if first == QUOTE:
            return _text_of_json(value)
        if first in (BRACE, BRACKET) or value == b"null":
            return None
        return value.decode()  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return repr(value)
    return None


def as_long_text(value: Any) -> str | None:
    """Text of a value inside a longer string: like `as_text`, but an object as its JSON, and an array as its elements joined by commas. None for
    MISSING and null."""
    text = as_text(value)
    if text is not None or is_null(value):
        return text
    if (array := elements(value)) is not None:
        return ",".join([as_json(item).decode() if (one := as_text(item)) is None else one for item in array])
    return as_json(value).decode()


def is_null(value: Any) -> bool:
    """Whether there is no value: null, or nothing at all."""
    return value is MISSING or value is None or value == b"null"


def elements(value: Any) -> list[Any] | None:
    """The elements of an array; None when the value is not an array."""
    if type(value) is list:
        return value
    if type(value) is bytes and value[0] == BRACKET:
        return [bytes(item) for item in _raw_list(value)]
    return None


_raw_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
