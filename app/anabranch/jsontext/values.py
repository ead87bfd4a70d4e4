"""Python values out of JSON text and back, without loss.

Integers of any size keep every digit, and what JSON cannot say (infinity, NaN, half of a surrogate pair) is an error. orjson alone does not
serve: it reads an integer beyond 64 bits as a float, refuses to write one, and writes infinity and NaN as null.

**Source:** RFC 8259 sections 6 (numbers) and 8.2 (surrogates).
"""

import json
from decimal import Decimal
from typing import Any, Final

import msgspec
import orjson
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from anabranch.jsontext.proof import decode_raw

load: Final = msgspec.json.Decoder().decode
"""The value of JSON text. Raises msgspec.DecodeError, also for a number that no Python number holds, and RecursionError."""
_load_exactly: Final = msgspec.json.Decoder(float_hook=Decimal).decode
write: Final = msgspec.json.encode
"""JSON text of a value that is made of dicts, lists, texts, finite numbers, booleans and None."""

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
MOST_DIGITS: Final = 4300
"""Of a whole number that has to be converted: Python's own limit, because the time grows with the square of the length."""


def load_exactly(text: bytes) -> Any:
    """Like `load`, but a number beyond the range of a float is a Decimal. Raises ValueError and RecursionError."""
    try:
        return load(text)
    except msgspec.ValidationError:  # the only fault of valid JSON: a number is out of range
        try:
            return _load_exactly(text)
        except (ArithmeticError, msgspec.ValidationError):
            raise ValueError("a number is out of range") from None


def dump(value: Any) -> bytes:
    """JSON text of a value that a user's function made: also of models, dataclasses, dates and numpy arrays.

    Raises ValueError and TypeError for what JSON cannot say.
    """
    try:
        text = orjson.dumps(value, default=to_jsonable_python, option=_OPTIONS)
    except TypeError:
        # An integer beyond 64 bits, or something that is not JSON at all, which this refuses too.
        text = to_json(value, inf_nan_mode="constants", fallback=_plain)
        try:
            decode_raw(text)
        except msgspec.DecodeError:
            raise _not_finite() from None
    if b"null" in text:
        refuse_infinity(value)
    return text


def refuse_infinity(value: Any) -> None:
    """Raise ValueError if a number in `value` is infinite or NaN, which serializers write as null."""
    try:
        plain = to_jsonable_python(value, fallback=_plain)
    except PydanticSerializationError:
        return  # other serializers know it: a type with rules of its own
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError:
        raise _not_finite() from None


def _not_finite() -> ValueError:
    return ValueError("a number is infinite or NaN, which JSON does not have")


def _plain(value: Any) -> Any:
    """A numpy array or number as Python's own. Raises TypeError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
