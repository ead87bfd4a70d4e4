"""Why a reference found nothing: for the detail of a failure, so that an operator need not guess. Names structure only, never a value."""

from collections.abc import Callable, Iterable

from msgspec import Raw

from anabranch.jsontext import raw
from anabranch.jsontext.path import ANY, is_element, path_text
from anabranch.plan.reference import Reference

ValueOf = Callable[[str], bytes | None]
"""The JSON text that a root of references stands for; None when there is none."""


def reason(detail: str, references: Iterable[Reference], value_of: ValueOf) -> str:
    """`detail`, which says of one of these references that it has no value, with the reason if there is one to be seen."""
    for reference in references:
        if not reference.meta and detail.startswith(f"{reference} has no value"):
            value = value_of(reference.root)
            why = None if value is None else _where_it_ends(reference, value)
            return detail if why is None else f"{detail}: {why}"
    return detail


def _where_it_ends(reference: Reference, value: bytes) -> str | None:
    """What is in the way of a reference into `value`; None when nothing is."""
    here: bytes | Raw = value
    for depth, name in enumerate(reference.path):
        walked = path_text((reference.root, *reference.path[:depth]))
        if (fields := raw.members(here)) is not None and name == ANY:
            return f"`{walked}` is an object, and `*` stands for the elements of an array"
        if fields is not None:
            found = fields.get(name)
            if found is None:
                return f"`{walked}` has no member `{name}`"
            here = found
        elif (array := raw.items(here)) is not None:
            if not is_element(name):
                return f"`{walked}` is an array, which has elements and no member `{name}`: write `.0` for its first one"
            if name == ANY:
                return None
            if int(name) >= len(array):
                return f"`{walked}` has {len(array)} elements"
            here = array[int(name)]
        else:
            kind = "null" if bytes(here) == raw.NULL else "a single value"
            return f"`{walked}` is {kind}, which has no members"
    return None
