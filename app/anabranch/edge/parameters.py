"""Fills a request's frame with the parameters that the plan declares, from path, query, header fields and cookies. Reports all faults at once.

A fault says what is wrong with which parameter, and never quotes what the client sent: it may be a credential, and problems are logged.
"""

from collections.abc import Iterator
from typing import Final

from anabranch.core.cookies import parse_cookies
from anabranch.core.percent import decode, parse_query
from anabranch.engine.request import ClientRequest
from anabranch.errors import InvalidParameters
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import ParameterPlan

_NOT_UTF8: Final = "is not UTF-8 text"
_NOT_A_COOKIE: Final = "is not the value of a cookie: it has a character that must not be in one"
_WHITESPACE: Final = " \t"

Texts = list[str | None]
"""What the client sent for one parameter; None for what cannot be read."""
Faults = list[dict[str, object]]


def fill(request: ClientRequest) -> None:
    """Read every declared parameter of a request into its slot. Raises InvalidParameters with one error for each fault, in the order path,
    query, header, cookie."""
    plan, frame = request.plan, request.frame
    faults: Faults | None = None
    for parameter, value in zip(plan.path_parameters, request.path_values, strict=True):
        texts = _of_segment(parameter, request) if parameter.is_list else [value]
        faults = _read(parameter, texts, frame, faults)
    if plan.query_parameters:
        given = parse_query(request.query) if request.query else {}
        for parameter in plan.query_parameters:
            found = given.get(parameter.name)
            faults = _absent(parameter, frame, faults) if found is None else _read(parameter, found, frame, faults)
    for parameter in plan.header_parameters:
        field = request.headers.get(parameter.field)
        faults = _absent(parameter, frame, faults) if field is None else _read(parameter, _of_field(parameter, field), frame, faults)
    if plan.cookie_parameters:
        sent = parse_cookies(request.headers.get(b"cookie", b""))
        for parameter in plan.cookie_parameters:
            values = sent.get(parameter.name)
            faults = _absent(parameter, frame, faults) if values is None else _read(parameter, values, frame, faults, _NOT_A_COOKIE)
    if faults is not None:
        raise InvalidParameters(_summary(faults), errors=faults)


def _of_segment(parameter: ParameterPlan, request: ClientRequest) -> Texts:
    """The elements of a path segment. An encoded comma is part of an element. **Source:** RFC 6570 section 3.2.2 (OpenAPI style `simple`)."""
    segment = request.path.decode("latin-1").split("/")[parameter.segment + 1]
    return [decode(element) for element in segment.split(",")]


def _of_field(parameter: ParameterPlan, field: bytes) -> Texts:
    """The value of a header field, whose lines are joined already; of a list its elements."""
    try:
        text = field.decode()
    except UnicodeDecodeError:
        return [None]
    return list(elements(text)) if parameter.is_list else [text]


def elements(text: str) -> Iterator[str]:
    """The elements of a comma-separated list, as they were written. A comma inside a quoted string separates nothing; an empty element is none.

    **Source:** RFC 9110 sections 5.6.1.2 (lists) and 5.6.4 (quoted strings).
    """
    if '"' not in text:
        parts = text.split(",")
    else:
        parts = [""]
        is_quoted = is_escaped = False
        for char in text:
            if char == "," and not is_quoted:
                parts.append("")
                continue
            parts[-1] += char
            if is_escaped:
                is_escaped = False
            elif char == '"':
                is_quoted = not is_quoted
            else:
                is_escaped = is_quoted and char == "\\"
    for part in parts:
        if element := part.strip(_WHITESPACE):
            yield element


def _read(parameter: ParameterPlan, texts: Texts, frame: Frame, faults: Faults | None, unreadable: str = _NOT_UTF8) -> Faults | None:
    if None in texts:
        return _fault(parameter, unreadable, faults)
    try:
        value = parameter.read(texts)  # type: ignore[arg-type]  # no None is left
    except ValueError as error:
        return _fault(parameter, str(error), faults)
    if parameter.slot is not None:
        frame[parameter.slot] = value
    return faults


def _absent(parameter: ParameterPlan, frame: Frame, faults: Faults | None) -> Faults | None:
    if parameter.is_required:
        return _fault(parameter, "is required", faults)
    if parameter.slot is not None:
        frame[parameter.slot] = parameter.default
    return faults


def _fault(parameter: ParameterPlan, detail: str, faults: Faults | None) -> Faults:
    fault: dict[str, object] = {"in": parameter.location, "name": parameter.name, "detail": detail}
    if faults is None:
        return [fault]
    faults.append(fault)
    return faults


def _summary(faults: Faults) -> str:
    first = faults[0]
    if len(faults) == 1:
        return f"the {first['in']} parameter '{first['name']}' {first['detail']}"
    return f"{len(faults)} parameters are missing or invalid: " + ", ".join(f"{fault['in']} '{fault['name']}'" for fault in faults)
