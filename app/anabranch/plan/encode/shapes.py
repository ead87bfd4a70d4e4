"""What the formats ask of a value: is it an object, a single value, a reference of which nothing is known before a request."""

from collections.abc import Callable
from typing import Any

from anabranch.plan.reference import Reference, TemplateError, is_whole, parse

_PARAMETERS = frozenset({"path", "query", "header", "cookie"})


def reference_of(node: Any) -> Reference | None:
    """The reference that a node of a template consists of; None for any other node. Raises TemplateError."""
    if not isinstance(node, str):
        return None
    template = parse(node)
    return template[0] if is_whole(template) and isinstance(template[0], Reference) else None


def is_scalar(node: Any) -> bool:
    """Whether a node of a template may be one text, number, boolean or null."""
    return not isinstance(node, dict | list)


def object_of(node: Any, report: Callable[..., None], noun: str) -> dict[str, Any] | None:
    """The object that a template is; None for a reference, and for anything else, which is reported."""
    if isinstance(node, dict):
        return node
    try:
        reference = reference_of(node)
    except TemplateError:
        return None  # reported where the template is parsed
    if reference is None or (reference.root in _PARAMETERS and reference.path):
        report(f"{noun} is made of an object, and this is none")
    return None
