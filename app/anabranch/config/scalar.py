"""Interprets unquoted YAML scalars exactly by the core schema. Whole numbers may have any size; numbers that JSON cannot represent are rejected.

**Source:** YAML 1.2.2 section 10.3.2.
"""

import math
import re
from typing import Final, Literal

Value = str | int | float | bool | None

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MOST_DIGITS: Final = 1000
"""No number in a document is longer, and Python takes time quadratic in the length."""
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def plain_value(text: str) -> Value:
    """The value of an unquoted scalar in the core schema. Raises ValueError for a number that is too large, infinite or no number."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        bases: dict[str, Literal[8, 16]] = {"0o": 8, "0x": 16}
        base = bases.get(text[:2], 10)
        if len(text) > _MOST_DIGITS:
            raise ValueError(f"a whole number must have at most {_MOST_DIGITS} digits; if it is text, put it in quotes")
        return int(text[2:] if base != 10 else text, base)
    if _FLOAT.fullmatch(text):
        if math.isinf(real := float(text)):
            raise ValueError("the number is too large; if it is text, put it in quotes")
        return real
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and NaN are not allowed; if it is text, put it in quotes")
    return text
