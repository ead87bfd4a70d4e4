"""application/x-www-form-urlencoded: an object of texts, numbers and booleans. An array repeats the name; null is left out, also in an array.

**Source:** URL Standard section 5.2.
"""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote_plus

from anabranch.errors import UnencodableBody
from anabranch.jsontext.raw import NULL, items, members
from anabranch.plan.encode.shapes import is_scalar, object_of
from anabranch.plan.value import as_text

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
_UNRESERVED: Final = "*"
"""Not encoded, besides letters, digits and `-._`. (The standard encodes `~`, quote_plus does not; both are read alike.)"""


def report(node: Any, problem: Callable[..., None]) -> None:
    """Report what in a template can never be written as a form."""
    for name, value in (object_of(node, problem, "a form") or {}).items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(map(is_scalar, value))):
            problem("a field of a form is a text, a number, a boolean or an array of these", name)


def encode(text: bytes) -> bytes:
    """Raises UnencodableBody."""
    fields = members(text)
    if fields is None:
        raise UnencodableBody("the body of the call is not an object, and a form is made of one")
    pairs = []
    for number, (name, raw) in enumerate(fields.items(), 1):
        values = items(raw)
        for value in map(bytes, [raw] if values is None else values):
            if value == NULL:
                continue
            one = as_text(value)
            if one is None:
                raise UnencodableBody(f"field {number} of the form is an object, or an array with one in it")
            pairs.append(f"{quote_plus(name, _UNRESERVED)}={quote_plus(one, _UNRESERVED)}")
    return "&".join(pairs).encode()
