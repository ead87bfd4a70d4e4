"""How the body of a step's answer is read, as a text that another process can compile, and the kinds of formats.

A format is a module of this folder and a line in `FORMATS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from anabranch.formats import form, html, ndjson, octets, text, xml
from anabranch.formats.html import NotQuickError as NotQuickError

Read = Callable[[bytes, str], bytes]
"""Takes a body and the value of its Content-Type field ("" for none) and returns JSON text. Raises InvalidFormat, InvalidCharset, InvalidJSON."""


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """`format`: a key of `FORMATS`. `arrays`: of XML, elements that are always arrays. `select`: of HTML."""

    format: str
    arrays: list[str] = []
    select: dict[str, html.Selection] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`compile`: what reads bodies by these rules. `quick`: the same, if it takes at most about 5 ms; it raises NotQuickError otherwise. `accept`:
    what a request says. `schema`: JSON Schema of what comes out."""

    compile: Callable[[Rules], Read]
    quick: Callable[[Rules], Read]
    accept: str
    schema: Callable[[Rules], dict[str, Any]]


def _format(
    compile: Callable[[Rules], Read],  # noqa: A002 - as the field
    is_large: Callable[[bytes], bool],
    accept: str,
    schema: Callable[[Rules], dict[str, Any]],
    *,
    quick: Callable[[Rules], Read] | None = None,
) -> Format:
    """`is_large`: whether reading a body may take more than about 5 ms. `quick`: if that is not all that decides."""

    def compile_quick(rules: Rules) -> Read:
        read = (quick or compile)(rules)

        def read_quickly(body: bytes, content_type: str) -> bytes:
            if is_large(body):
                raise NotQuickError
            return read(body, content_type)

        return read_quickly

    return Format(compile=compile, quick=compile_quick, accept=accept, schema=schema)


def _form_schema(_: Rules) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}}


def _html_schema(select: dict[str, html.Selection]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(select),
        "properties": {name: _selected(selection) for name, selection in select.items()},
        "additionalProperties": False,
    }


def _selected(selection: html.Selection) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string"} if selection.select is None else _html_schema(selection.select)
    is_never_null = selection.css == html.ITSELF and not selection.attr
    if selection.is_many:
        return {"type": "array", "items": {**one, "type": ["string", "null"]} if selection.attr else one}
    return one if is_never_null else {**one, "type": [one["type"], "null"]}


FORMATS: Final[dict[str, Format]] = {
    "text": _format(lambda _: text.read, text.is_large, "text/plain, */*;q=0.5", lambda _: {"type": "string"}),
    "ndjson": _format(
        lambda _: ndjson.read, ndjson.is_large, "application/x-ndjson, application/jsonl, */*;q=0.1", lambda _: {"type": "array"}
    ),
    "form": _format(lambda _: form.read, form.is_large, "application/x-www-form-urlencoded, */*;q=0.1", _form_schema),
    "xml": _format(
        lambda rules: xml.reader(rules.arrays),
        xml.is_large,
        "application/xml, text/xml, application/rss+xml, application/atom+xml, */*;q=0.1",
        lambda _: {"type": "object", "minProperties": 1, "maxProperties": 1},
    ),
    "html": _format(
        lambda rules: html.reader(rules.select),
        html.is_large,
        "text/html, application/xhtml+xml, */*;q=0.1",
        lambda rules: _html_schema(rules.select),
        quick=lambda rules: html.reader(rules.select, html.QUICK_S),
    ),
    "bytes": _format(lambda _: octets.read, octets.is_large, "*/*", lambda _: {"type": "string", "contentEncoding": "base64"}),
}
"""By the name that a document gives them. JSON is not among them: it is not converted."""
