"""How the body of a step's answer is read, as a text that another process can compile, and the kinds of formats.

A format is a module of this folder and a line in `FORMATS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from anabranch.formats import form, html, ndjson, octets, text, xml

Read = Callable[[bytes, str], bytes]
"""Takes a body and the value of its Content-Type field ("" for none) and returns JSON text. Raises InvalidFormat, InvalidCharset, InvalidJSON."""


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """`format`: a key of `FORMATS`. `arrays`: of XML, elements that are always arrays. `select`: of HTML."""

    format: str
    arrays: list[str] = []
    select: dict[str, html.Selection] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`compile`: what reads bodies by these rules. `accept`: what a request for it says. `is_large`: whether reading a body may hold the event loop
    for more than about 5 ms. `schema`: JSON Schema of what comes out."""

    compile: Callable[[Rules], Read]
    accept: str
    is_large: Callable[[bytes], bool]
    schema: Callable[[Rules], dict[str, Any]]


def _from(size_bytes: int) -> Callable[[bytes], bool]:
    return lambda body: len(body) >= size_bytes


def _form_schema(_: Rules) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}}


def _xml_schema(_: Rules) -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "maxProperties": 1}


def _html_schema(select: dict[str, html.Selection]) -> dict[str, Any]:
    return {"type": "object", "required": list(select), "properties": {name: _selected(selection) for name, selection in select.items()}}


def _selected(selection: html.Selection) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string"} if selection.select is None else _html_schema(selection.select)
    is_never_null = selection.css == html.ITSELF and not selection.attr
    if selection.is_many:
        return {"type": "array", "items": {**one, "type": ["string", "null"]} if selection.attr else one}
    return one if is_never_null else {**one, "type": [one["type"], "null"]}


FORMATS: Final[dict[str, Format]] = {
    "text": Format(
        compile=lambda _: text.read,
        accept="text/plain, */*;q=0.5",
        is_large=_from(text.FROM_BYTES),
        schema=lambda _: {"type": "string"},
    ),
    "ndjson": Format(
        compile=lambda _: ndjson.read,
        accept="application/x-ndjson, application/jsonl, */*;q=0.1",
        is_large=_from(ndjson.FROM_BYTES),
        schema=lambda _: {"type": "array"},
    ),
    "form": Format(
        compile=lambda _: form.read,
        accept="application/x-www-form-urlencoded, */*;q=0.1",
        is_large=_from(form.FROM_BYTES),
        schema=_form_schema,
    ),
    "xml": Format(
        compile=lambda rules: xml.reader(rules.arrays),
        accept="application/xml, text/xml, application/rss+xml, application/atom+xml, */*;q=0.1",
        is_large=_from(xml.FROM_BYTES),
        schema=_xml_schema,
    ),
    "html": Format(
        compile=lambda rules: html.reader(rules.select),
        accept="text/html, application/xhtml+xml, */*;q=0.1",
        is_large=html.is_large,
        schema=lambda rules: _html_schema(rules.select),
    ),
    "bytes": Format(
        compile=lambda _: octets.read,
        accept="*/*",
        is_large=_from(octets.FROM_BYTES),
        schema=lambda _: {"type": "string", "contentEncoding": "base64"},
    ),
}
"""By the name that a document gives them. JSON is not among them: it is not converted."""
