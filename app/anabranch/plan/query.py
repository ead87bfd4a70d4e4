"""Compiles the query of a call: a function from a frame to the query, without `?`.

A value is exactly one value, however it is spelled. An array repeats its name for each element, or is written once with commas between; one without
elements leaves the whole step out unless the document says otherwise: a filter by nothing must never become no filter.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from anabranch.config import model as config
from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.left_out import LeftOut
from anabranch.plan.reference import Reference, Template, is_whole
from anabranch.plan.template import SlotOf, nothing, parts_of, render_text
from anabranch.plan.value import as_text, elements, is_null

Query = Callable[[Frame], str]
"""The query for a frame; "" when it is empty. Raises MissingReference and LeftOut."""

_Texts = Callable[[Frame], list[str] | None]
"""The texts of one value: none for an empty array; None when the client has not sent what it refers to."""


class Parse(Protocol):
    """Parses the template at `where` below the step; reports problems."""

    def __call__(self, text: str, *where: str | int) -> Template: ...


class Report(Protocol):
    """Reports a problem at `where` below the step."""

    def __call__(self, message: str, *where: str | int) -> None: ...


def compile_query(
    query: Mapping[str, Any], parse: Parse, report: Report, slot_of: SlotOf, optional: Callable[[Reference], bool]
) -> tuple[Query | None, bool]:
    """The query of a call, None when it has none; and whether an empty array may leave the step out. `optional`: whether the client may leave
    out what a reference names. If the client does, the query parameter is left out of the call too."""
    parts: list[str | Query] = []
    may_skip = False
    for name, given in query.items():
        value = given if isinstance(given, config.QueryValue) else config.QueryValue(value=given)
        where = ("query", name, "value") if value is given else ("query", name)
        nodes = value.value if isinstance(value.value, list) else [value.value]
        templates: list[Template] = [
            parse(node, *where, *([index] if isinstance(value.value, list) else [])) if isinstance(node, str) else (as_text(node) or "",)
            for index, node in enumerate(nodes)
            if node is not None
        ]
        is_fixed = not any(isinstance(part, Reference) for template in templates for part in template)
        if is_fixed and (ignored := value.model_fields_set & {"style", "when_empty"}) and not (ignored == {"style"} and len(nodes) > 1):
            report(f"`{min(ignored)}` has no effect here: the value is not an array from a reference", "query", name)
        texts = [_texts(template, slot_of, optional) for template in templates]
        key = quote(name, safe="")
        if is_fixed:
            parts.append(_written(key, [text for of in texts for text in of([]) or ()], value.style))
            continue
        may_skip = may_skip or value.when_empty == "skip"
        only = templates[0][0] if len(templates) == 1 and is_whole(templates[0]) else None
        if isinstance(only, Reference) and value.style == "repeat":
            parts.append(_plain(key, texts[0], value, slot_of(only)))
        else:
            parts.append(_value(key, texts, value))
    if not query:
        return None, False
    if all(isinstance(part, str) for part in parts):
        constant = "".join(map(str, parts))[1:]
        return lambda _frame: constant, False
    return lambda frame: "".join([part if type(part) is str else part(frame) for part in parts])[1:], may_skip  # type: ignore[operator]


def _encode(text: str) -> str:
    return text if text.isalnum() and text.isascii() else quote(text, safe="")


def _written(key: str, texts: list[str], style: str) -> str:
    """One name with its values, after an ampersand."""
    if style == "comma":
        return f"&{key}={','.join(map(_encode, texts))}" if texts else ""
    return "".join([f"&{key}={_encode(text)}" for text in texts])


def _plain(key: str, texts: _Texts, value: config.QueryValue, slot: int) -> Query:
    """The usual case: one reference, nearly always to a single value."""
    prefix = f"&{key}="
    rest = _value(key, [texts], value)

    def render(frame: Frame) -> str:
        text = as_text(frame[slot])
        return prefix + _encode(text) if text is not None else rest(frame)

    return render


def _value(key: str, texts: list[_Texts], value: config.QueryValue) -> Query:
    style, when_empty = value.style, value.when_empty

    def render(frame: Frame) -> str:
        found = [some for of in texts if (some := of(frame)) is not None]
        all_texts = [text for some in found for text in some]
        if all_texts or not found:
            return _written(key, all_texts, style)
        if when_empty == "skip":
            raise LeftOut
        return f"&{key}=" if when_empty == "send" else ""

    return render


def _texts(template: Template, slot_of: SlotOf, optional: Callable[[Reference], bool]) -> _Texts:
    if is_whole(template):
        reference = template[0]
        assert isinstance(reference, Reference)
        return _of_reference(slot_of(reference), str(reference), is_optional=optional(reference))
    parts = parts_of(template, slot_of)
    slots = [part[0] for part in parts if isinstance(part, tuple)]
    if not slots:
        fixed = ["".join(map(str, template))]
        return lambda _frame: fixed
    render = render_text(parts)
    return lambda frame: [] if any(elements(frame[slot]) == [] for slot in slots) else [render(frame)]


_FAULT: Final = "cannot be used in a query: it is not a string, number, boolean or list of these"


def _of_reference(slot: int, source: str, *, is_optional: bool) -> _Texts:
    def texts(frame: Frame) -> list[str] | None:
        value = frame[slot]
        text = as_text(value)
        if text is not None:
            return [text]
        if (array := elements(value)) is not None:
            found = [text for item in array if (text := as_text(item)) is not None]
            if len(found) == len(array):
                return found
        elif is_optional and (value is MISSING or value is None):
            return None
        elif is_null(value):
            raise nothing(source, "has no value" if value is MISSING else _FAULT)
        raise MissingReference(f"{source} {_FAULT}")

    return texts
