"""Fills a request's frame with the parameters that the plan declares, from path, query and headers. Reports all faults at once."""

from typing import Final

from anabranch.edge.percent import parse_query
from anabranch.engine.request import ClientRequest
from anabranch.errors import InvalidParameters
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import ParameterPlan

_SHOWN_CHARS: Final = 100
_NOT_UTF8: Final = "is not UTF-8 text"

Faults = list[dict[str, object]]


def fill(request: ClientRequest) -> None:
    """Read every declared parameter of a request into its slot. Raises InvalidParameters with one error for each fault, in the order path,
    query, header."""
    plan, frame = request.plan, request.frame
    faults: Faults | None = None
    for parameter, value in zip(plan.path_parameters, request.path_values, strict=True):
        faults = _read(parameter, [value], frame, faults)
    if plan.query_parameters:
        given = parse_query(request.query) if request.query else {}
        for parameter in plan.query_parameters:
            texts = given.get(parameter.name)
            faults = _absent(parameter, frame, faults) if texts is None else _read(parameter, texts, frame, faults)
    for parameter in plan.header_parameters:
        name = parameter.name.lower().encode("latin-1")
        lines: list[str | None] = [value.decode("latin-1") for key, value in request.header_lines if key == name]
        faults = _read(parameter, lines, frame, faults) if lines else _absent(parameter, frame, faults)
    if faults is not None:
        raise InvalidParameters(_summary(faults), errors=faults)


def _read(parameter: ParameterPlan, texts: list[str | None], frame: Frame, faults: Faults | None) -> Faults | None:
    if None in texts:
        return _fault(parameter, _NOT_UTF8, None, faults)
    try:
        value = parameter.read(texts)  # type: ignore[arg-type]  # no None is left
    except ValueError as error:
        return _fault(parameter, str(error), texts, faults)
    if parameter.slot is not None:
        frame[parameter.slot] = value
    return faults


def _absent(parameter: ParameterPlan, frame: Frame, faults: Faults | None) -> Faults | None:
    if parameter.is_required:
        return _fault(parameter, "is required", None, faults)
    if parameter.slot is not None:
        frame[parameter.slot] = parameter.default
    return faults


def _fault(parameter: ParameterPlan, detail: str, texts: list[str | None] | None, faults: Faults | None) -> Faults:
    """Add a fault. The value of a header is omitted: it may be a credential, and clients log problem documents."""
    fault: dict[str, object] = {"in": parameter.location, "name": parameter.name, "detail": detail}
    if texts is not None and parameter.location != "header":
        value = ", ".join(text or "" for text in texts)
        fault["value"] = value if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]}..."
    if faults is None:
        return [fault]
    faults.append(fault)
    return faults


def _summary(faults: Faults) -> str:
    first = faults[0]
    if len(faults) == 1:
        return f"the {first['in']} parameter '{first['name']}' {first['detail']}"
    return f"{len(faults)} parameters are missing or invalid: " + ", ".join(f"{fault['in']} '{fault['name']}'" for fault in faults)
