"""Compiles the response of an endpoint: how the values of its steps are merged, its status, its header fields, and what it says of failures.

What does not depend on the request is decided and rendered here, once.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from anabranch.config import model as config
from anabranch.config.problems import Problems
from anabranch.core.field import is_safe_value
from anabranch.core.status import REDIRECTS, passed_on
from anabranch.errors import InvalidStatus, MissingReference
from anabranch.jsontext import merge, raw
from anabranch.jsontext.frame import Frame
from anabranch.plan.fields import report_response_header
from anabranch.plan.known import Known
from anabranch.plan.left_out import LeftOut
from anabranch.plan.merging import MUST_BE, assemble_steps, merge_order
from anabranch.plan.model import CompressionPlan, FailuresRule, ResponseField, ResponsePlan
from anabranch.plan.reference import LINES, Reference, Template, TemplateError, is_whole, parse, strings
from anabranch.plan.scope import Path, Scope
from anabranch.plan.step import report_nullable
from anabranch.plan.template import SlotOf, compile_json, parts_of, render_text
from anabranch.plan.value import as_long_text, as_text, elements, is_null

CACHING: Final = frozenset({b"cache-control", b"cdn-cache-control", b"etag", b"expires", b"last-modified", b"pragma", b"surrogate-control"})
"""Fields by which caches decide what to keep (RFC 9111 section 5, RFC 9213, RFC 9110 section 8.8). An incomplete response never has them."""

_FAILURES: Final = "failures"
_USUAL_STATUS: Final = 200
_STATUS_DIGITS: Final = 3
_MOST_FIELD_BYTES: Final = 16 * 1024
"""Of all lines of one field together: a response's head must stay small."""


def check_default_response(defaults: config.DefaultResponse, problems: Problems) -> None:
    """Report what is wrong with the fields of all responses."""
    at: Path = ("defaults", "response", "headers")
    _report_repeated(defaults.headers, at, problems)
    for name, given in defaults.headers.items():
        header = _header(given)
        if header is None:
            problems.add((*at, name), "null removes a field of the defaults, and these are the defaults", at_key=True)
            continue
        where = (*at, name, "value") if isinstance(given, config.ResponseHeader) else (*at, name)
        _report_no_effect(name, header, (*at, name), problems)
        try:
            template = parse(header.value)
        except TemplateError as error:
            problems.add(where, str(error), value=header.value)
            continue
        report_response_header((*at, name), name, _fixed_text(template), problems)
        found = next((part for part in template if isinstance(part, Reference)), None)
        if found is not None:
            problems.add(
                where, f"{found} has no effect here: a field of all responses cannot refer to one request", hint="set it in the endpoint"
            )


def compile_response(
    endpoint: config.Endpoint, *, known: Known, scope: Scope, problems: Problems, at: Path, absent: Collection[str]
) -> ResponsePlan | None:
    """The response of an endpoint; None after a problem, which was reported. `absent`: names of the steps that may be left out."""
    return _Compiler(endpoint, known.defaults, scope, problems, at).compile(absent)


class _Compiler:
    def __init__(self, endpoint: config.Endpoint, defaults: config.Defaults, scope: Scope, problems: Problems, at: Path) -> None:
        self._steps = endpoint.steps
        self._response = endpoint.response
        self._defaults = defaults.response
        self._compression = defaults.compression if endpoint.compression is None else endpoint.compression
        self._scope = scope
        self._problems = problems
        self._steps_at = (*at, "steps")
        self._at = (*at, "response")
        self._has_template = "body" in endpoint.response.model_fields_set

    def compile(self, absent: Collection[str]) -> ResponsePlan | None:
        self._check_passed()
        if "arrays" in self._response.model_fields_set and self._response.merge != "deep":
            self._problems.add((*self._at, "arrays"), "it has an effect only with `merge: deep`", is_warning=True, at_key=True)
        key = self._failures_key()
        fields = self._fields()
        reference = self._status_reference()
        status = self._response.status if isinstance(self._response.status, int) else _USUAL_STATUS
        location = next((field for field in fields if field.name == b"location" and field.when == "always"), None)
        if status in REDIRECTS and location is None:
            message = f"{status} sends the client to another address, which `headers` does not have"
            self._problems.add((*self._at, "status"), message, hint="set `location` in `headers`")
        assemble = self._assemble(absent, key)
        if assemble is None:
            return None
        counted = self._counted()
        visible = self._visible()
        merged = counted if self._has_template else tuple(index for index, _ in visible)
        return ResponsePlan(
            assemble=assemble,
            merged=merged if key is None else (*merged, len(self._steps)),
            merge_order=merge_order(self._response),
            visible=counted,
            status=status,
            status_of=reference,
            settle=_settle(status, reference, location, self._scope.slot),
            fields=tuple(fields),
            failures=None if key is None else _failures_rule(key, is_wrapped=MUST_BE[self._response.merge] == "object"),
            compression=_compression(self._compression),
            passing=frozenset(name for name, step in self._steps.items() if _passes(step)),
        )

    # ---------------------------------------------------------------------------------------------------------- body

    def _visible(self) -> list[tuple[int, str]]:
        return [(index, name) for index, (name, step) in enumerate(self._steps.items()) if not step.is_hidden]

    def _assemble(self, absent: Collection[str], key: str | None) -> merge.Assemble | None:
        """What builds the body. `key`: of the failures, which are one more value behind those of the steps."""
        response = self._response
        visible = self._visible()
        if self._has_template:
            return self._from_template(key)
        if key is not None:
            visible.append((len(self._steps), key))
        return assemble_steps(response, visible, may_be_absent=key is not None or any(name in absent for _, name in visible))

    def _from_template(self, key: str | None) -> merge.Assemble | None:
        for where, text in strings(self._response.body):
            at = (*self._at, "body", *where)
            report_nullable(self._scope.parse(text, at), partial(self._problems.add, at))
        try:
            render = compile_json(self._response.body, self._scope.slot, is_strict=False)
        except TemplateError:
            return None
        return merge.with_member(render, key, len(self._steps)) if key is not None else lambda _values, frame: render(frame)

    def _counted(self) -> tuple[int, ...]:
        """The steps that decide whether anything could be answered: those that `body` refers to, otherwise the visible ones."""
        if self._has_template:
            shown = {
                part.root
                for _, text in strings(self._response.body)
                for part in self._parsed(text)
                if isinstance(part, Reference) and not part.is_soft
            }
            if counted := tuple(index for index, name in enumerate(self._steps) if name in shown):
                return counted
        return tuple(index for index, _ in self._visible())

    def _parsed(self, text: str) -> Template:
        try:
            return parse(text)
        except TemplateError:
            return ()  # reported by the scope

    # -------------------------------------------------------------------------------------------------------- failures

    def _check_passed(self) -> None:
        for name, step in self._steps.items():
            if isinstance(step, config.CallStep) and step.errors == "pass" and not step.required:
                message = "`pass` has no effect on an optional step: its failure never ends the request"
                hint = "set `required: true`, or `show_failures` in `response`"
                self._problems.add((*self._steps_at, name, "errors"), message, hint=hint)

    def _failures_key(self) -> str | None:
        """The key under which the response shows failures; None when it shows none."""
        response = self._response
        is_own = "show_failures" in response.model_fields_set
        given = response.show_failures if is_own else self._defaults.show_failures
        if given is False:
            return None
        has_optional = any(not step.required for step in self._steps.values())
        if not is_own:
            is_object = not self._has_template or isinstance(response.body, dict)
            if response.status == 204 or response.merge == "concat" or not is_object or not has_optional:
                return None
        elif not has_optional:
            self._problems.add(
                (*self._at, "show_failures"), "it has no effect: every step is required, and a failure of one is a problem document"
            )
        key = _FAILURES if given is True else given
        taken = (
            key in response.body
            if self._has_template
            else MUST_BE[response.merge] == "" and key in self._steps and not self._steps[key].is_hidden
        )
        if taken:
            where = (*self._at, "body", key) if self._has_template else (*self._steps_at, key)
            message = f"the response has `{key}` already: there it shows which steps failed"
            self._problems.add(where, message, hint="choose another key, such as `show_failures: errors`", at_key=True)
        return key

    # ----------------------------------------------------------------------------------------------------------- head

    def _status_reference(self) -> Reference | None:
        """The reference that gives the status; None when it is fixed."""
        text = self._response.status
        if isinstance(text, int):
            return None
        at = (*self._at, "status")
        template = self._scope.parse(text, at)
        report_nullable(template, partial(self._problems.add, at))
        reference = template[0] if is_whole(template) else None
        if isinstance(reference, Reference):
            if reference.is_soft:
                self._problems.add(at, f"{reference} is never a status", hint=f"write {{{reference.root}.$status}}")
            return reference
        if template or not text:
            hint = "write it without quotes" if text.isdecimal() else "write one reference, such as `{step.$status}`"
            self._problems.add(at, "a status is a number, or one reference to a number", value=text, hint=hint)
        return None

    def _fields(self) -> list[ResponseField]:
        own, defaults = self._response.headers, self._defaults.headers
        at = (*self._at, "headers")
        _report_repeated(own, at, self._problems)
        names = {name.lower() for name in own}
        known = {name.lower() for name in defaults}
        fields = [
            _fixed(name, header, "".join(part for part in self._parsed(header.value) if isinstance(part, str)))
            for name, given in defaults.items()
            if name.lower() not in names and (header := _header(given)) is not None
        ]
        for name, given in own.items():
            header = _header(given)
            if header is not None:
                where = (*at, name, "value") if isinstance(given, config.ResponseHeader) else (*at, name)
                fields.append(self._field(name, header, where))
            elif name.lower() not in known:
                message = f"null removes a field of `defaults.response`, which has no `{name.lower()}`"
                self._problems.add((*at, name), message, at_key=True)
        return fields

    def _field(self, name: str, header: config.ResponseHeader, where: Path) -> ResponseField:
        at = (*self._at, "headers", name)
        _report_no_effect(name, header, at, self._problems)
        template = self._scope.parse(header.value, where)
        report_nullable(template, partial(self._problems.add, where))
        text = _fixed_text(template) if template else None
        report_response_header(at, name, text, self._problems)
        if text is not None or not template:
            return _fixed(name, header, text or "")
        key = name.lower().encode()
        values = compile_lines(template, self._scope.slot)
        if key == b"content-type":
            values = partial(_one_type, values)
        return ResponseField(name=key, when=header.when, values=values)


# -------------------------------------------------------------------------------------------------------------- fields


def compile_lines(template: Template, slot_of: SlotOf) -> Callable[[Frame], list[bytes]]:
    """A function from a frame to the values of a header field, one for each of its lines: none when a reference has no value.

    One reference to a field of an answer, or to an array, gives a line for each value. Left out are values that HTTP does not allow (RFC 9110
    section 5.5) and a field of more than 16 KiB.
    """
    reference = template[0] if is_whole(template) else None
    texts: Callable[[Frame], list[bytes]]
    if isinstance(reference, Reference) and reference.meta == "headers":
        slot = slot_of(replace(reference, meta=LINES))

        def texts(frame: Frame) -> list[bytes]:
            lines = frame[slot]
            return lines if isinstance(lines, list) else []

    elif isinstance(reference, Reference):
        slot = slot_of(reference)

        def texts(frame: Frame) -> list[bytes]:
            value = frame[slot]
            array = elements(value)
            found = [as_long_text(value)] if array is None else list(map(as_long_text, array))
            return [text.encode() for text in found if text is not None]

    else:
        render = render_text(parts_of(template, slot_of))

        def texts(frame: Frame) -> list[bytes]:
            try:
                return [render(frame).encode()]
            except (MissingReference, LeftOut):
                return []

    def lines(frame: Frame) -> list[bytes]:
        found = [text.strip(b" \t") for text in texts(frame) if is_safe_value(text)]
        return found if sum(map(len, found)) <= _MOST_FIELD_BYTES else []

    return lines


def _one_type(values: Callable[[Frame], list[bytes]], frame: Frame) -> list[bytes]:
    """The media type: one, because a response has one, and JSON where nothing says otherwise."""
    return [next((value for value in values(frame) if value), b"application/json")]


def _header(given: config.ResponseHeader | str | None) -> config.ResponseHeader | None:
    return config.ResponseHeader(value=given) if isinstance(given, str) else given


def _fixed(name: str, header: config.ResponseHeader, text: str) -> ResponseField:
    return ResponseField(name=name.lower().encode(), when=header.when, value=text.encode())


def _fixed_text(template: Template) -> str | None:
    """The text of a template; None when it depends on the request."""
    return None if any(isinstance(part, Reference) for part in template) else "".join(map(str, template))


def _report_repeated(headers: Mapping[str, Any], at: Path, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name in headers:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            problems.add((*at, name), f"the header {name.lower()} is given twice: the names of header fields ignore case", at_key=True)


def _report_no_effect(name: str, header: config.ResponseHeader, at: Path, problems: Problems) -> None:
    if header.when == "partial" and name.lower().encode() in CACHING:
        message = f"`partial` has no effect on {name.lower()}: no cache may keep an incomplete response"
        problems.add((*at, "when"), message)


# -------------------------------------------------------------------------------------------------------------- status


def _settle(status: int, reference: Reference | None, location: ResponseField | None, slot_of: SlotOf) -> Callable[[Frame], int] | None:
    """A function from a frame to the status; None when the status is fixed and nothing has to be checked. It raises InvalidStatus, and
    MissingReference for a redirect that leads nowhere."""
    values = None if location is None else location.values
    is_certain = location is not None and values is None
    if reference is None:
        if status not in REDIRECTS or values is None:
            return None

        def checked(frame: Frame) -> int:
            if not any(values(frame)):
                raise MissingReference(_LEADS_NOWHERE)
            return status

        return checked
    slot, source = slot_of(reference), str(reference)

    def referred(frame: Frame) -> int:
        found = _number(frame[slot], source, status)
        if found in REDIRECTS and not is_certain and (values is None or not any(values(frame))):
            raise MissingReference(_LEADS_NOWHERE)
        return found

    return referred


_LEADS_NOWHERE: Final = "the response is a redirect, and `location` has no value"


def _number(value: Any, source: str, usual: int) -> int:
    """The status that a value means; `usual` when there is no value. Raises InvalidStatus."""
    if is_null(value):
        return usual
    text = as_text(value) or ""
    is_number = len(text) == _STATUS_DIGITS and text.isascii() and text.isdecimal()
    status = passed_on(int(text)) if is_number else None
    if status is None:
        raise InvalidStatus(f"{source} is not a status that a response can have")
    return status


# ------------------------------------------------------------------------------------------------------------ the body


def _passes(step: config.Step) -> bool:
    return isinstance(step, config.CallStep) and step.errors == "pass"


def _failures_rule(key: str, *, is_wrapped: bool) -> FailuresRule:
    return FailuresRule(key=key, before=b"{%b:" % raw.encode(key) if is_wrapped else b"", after=b"}" if is_wrapped else b"")


def _compression(written: bool | config.Compression) -> CompressionPlan | None:
    rule = config.Compression() if written is True else written
    return CompressionPlan(codings=tuple(rule.encodings), min_size_bytes=rule.min_size) if rule else None
