"""The values of one request while it runs: one list, with one slot for each reference that some template uses.

A slot holds `MISSING` or a `Value`: a text or a boolean that the client sent in path, query or header fields, a list of these, None, or `bytes`:
JSON text of a number or of a value that came out of a body, in its exact spelling.
"""

from typing import Any, Final, TypeAlias


class Missing:
    """The type of `MISSING`: a reference found nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()
Value: TypeAlias = "str | bytes | bool | list[Value] | None"
Frame = list[Any]
