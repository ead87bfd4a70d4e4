"""The values of one request while it runs: one list, with one slot for each reference that some template uses.

A slot holds `MISSING`, a Python value (from path, query and headers: str, int, float, bool, None or a list of those) or `bytes`: the JSON text of
a value that came out of a body, in its exact spelling.
"""

from typing import Any, Final


class Missing:
    """The type of `MISSING`: a reference found nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()
Frame = list[Any]
