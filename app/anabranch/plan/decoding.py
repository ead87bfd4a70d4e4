"""Compiles what the answer of a call is read as: its format, and how large bodies are read elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from anabranch.config import model as config
from anabranch.core.exchange import Answer
from anabranch.errors import InvalidJSON, MissingExtraError, UpstreamError
from anabranch.formats.html import ITSELF, Selection, SelectorError, check_selector
from anabranch.formats.order import MAX_ORDER, order_of
from anabranch.formats.rules import FORMATS, NotQuickError, Read, Rules
from anabranch.jsontext.proof import is_answer
from anabranch.plan.operation import StepContext

_NO_CONTENT: Final = frozenset({204, 205})
"""Statuses of answers that have no body, whatever was asked for (RFC 9110 sections 15.3.5 and 15.3.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How an answer becomes JSON text. `read`: takes a body and its content type. `read_quickly`: raises NotQuickError for what takes too long for the
    event loop. `order`: the same for a worker process. `accept`: what the request says. `schema`: JSON Schema of the result."""

    name: str
    read: Read
    read_quickly: Read
    order: str
    accept: str
    schema: dict[str, Any]

    def fault_of(self, answer: Answer) -> str:
        """The code of the failure that reading the answer ends with; "" for none. One that takes long is not read for this."""
        if is_empty(answer):
            return ""
        try:
            self.read_quickly(answer.body, content_type(answer))
        except NotQuickError:
            return ""
        except UpstreamError as error:
            return error.code
        return ""


def is_empty(answer: Answer) -> bool:
    """Whether it has no body because its status says so. Its value is null in every format."""
    return not answer.body and answer.status in _NO_CONTENT


def content_type(answer: Answer) -> str:
    """The value of its Content-Type field; "" for none. Bytes that are not ASCII cannot be part of one."""
    return (answer.header(b"content-type") or b"").decode("ascii", "replace").replace("\n", " ")


def json_fault(answer: Answer) -> str:
    """What `Decoding.fault_of` is for a step without a decoding."""
    return "" if is_answer(answer.body) else InvalidJSON.code


def compile_decoding(step: config.CallStep, method: str, context: StepContext) -> Decoding | None:
    """How the step's answer is read; None for JSON, which is not converted, and after a problem, which was reported."""
    for key, kind in (("select", "html"), ("arrays", "xml")):
        if getattr(step, key) is not None and step.decode != kind:
            context.report(f"`{key}` has an effect only with `decode: {kind}`", key)
    if step.decode == "json":
        return None
    if method == "HEAD":
        context.report("the answer to a HEAD request has no body to read", "decode", value=step.decode)
    if step.decode == "html" and step.select is None and not context.known.is_broken(*context.at, "select"):
        context.report(
            "a page needs `select`, which says what to take from it", "decode", hint="for the page as text, write `decode: text`"
        )
    try:
        select = _selections(step.select or {}, context, ("select",))
        rules = Rules(format=step.decode, arrays=step.arrays or [], select=select)
        if len(order := order_of(rules)) > MAX_ORDER:
            context.report(f"the rules are longer than {MAX_ORDER // 1024} KiB", "decode")
        format_ = FORMATS[step.decode]
        read, read_quickly = format_.compile(rules), format_.quick(rules)
    except MissingExtraError as error:
        context.report(str(error), "decode", value=step.decode)
        return None
    return Decoding(
        name=step.decode, read=read, read_quickly=read_quickly, order=order, accept=format_.accept, schema=_or_null(format_.schema(rules))
    )


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _selections(
    select: Mapping[str, str | config.Selection], context: StepContext, where: tuple[str, ...], *, is_inside: bool = False
) -> dict[str, Selection]:
    """Check every selector. Problems are reported; then the result is good for nothing."""
    compiled = {}
    for name, written in select.items():
        at = (*where, name)
        selection = config.Selection(css=written) if isinstance(written, str) else written
        at_css = at if isinstance(written, str) else (*at, "css")
        css = selection.css.strip()
        if css == ITSELF:
            if not is_inside:
                context.report(f"`{ITSELF}` is the element that a `select` is inside of, and this one is inside of none", *at_css)
            elif selection.is_many:
                context.report(f"`{ITSELF}` is one element", *at, "many")
        else:
            try:
                check_selector(css)
            except SelectorError as error:
                context.report(str(error), *at_css, value=selection.css)
        if selection.select is not None and selection.attr is not None:
            context.report("an object cannot be the value of an attribute: either `select` or `attr`", *at, "attr")
        if selection.base is not None and selection.attr is None:
            context.report("`base` has an effect only with `attr`", *at, "base")
        compiled[name] = Selection(
            css=css,
            attr=(selection.attr or "").lower(),
            base=selection.base or "",
            is_many=selection.is_many,
            select=None if selection.select is None else _selections(selection.select, context, (*at, "select"), is_inside=True),
        )
    return compiled
