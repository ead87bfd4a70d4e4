"""text/plain in UTF-8: one text, number or boolean."""

from collections.abc import Callable
from typing import Any, Final

from anabranch.errors import UnencodableBody
from anabranch.plan.encode.shapes import is_scalar
from anabranch.plan.value import as_text

MEDIA_TYPE: Final = "text/plain;charset=utf-8"


def report(node: Any, problem: Callable[..., None]) -> None:
    """Report a template that is never one value."""
    if not is_scalar(node) or node is None:
        problem("a text is made of one text, number or boolean, and this is none")


def encode(text: bytes) -> bytes:
    """Raises UnencodableBody."""
    value = as_text(text)
    if value is None:
        raise UnencodableBody("the body of the call is an object, an array or null, and a text is made of one value")
    return value.encode()
