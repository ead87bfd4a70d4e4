"""Hand-built plans for tests of the edge, made without the compiler."""

from collections.abc import Callable
from typing import Any

from anabranch.config import model as config
from anabranch.core.exchange import Request
from anabranch.engine.outcome import Outcome, Result
from anabranch.errors import StepError
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.shape import DecodeMode
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.kinds.compute import ComputePlan
from anabranch.plan.model import BodyPlan, DocumentPlan, EndpointPlan, ParameterPlan, RecordPlan, ResponseField, ResponsePlan, StepPlan
from anabranch.plan.operation import OperationPlan
from anabranch.plan.routes import split_path


def read_text(texts: list[str]) -> Any:
    if len(texts) != 1:
        raise ValueError(f"may be given only once, not {len(texts)} times")
    return texts[0]


def read_integer(texts: list[str]) -> Any:
    text = read_text(texts)
    if not text.isdecimal():
        raise ValueError("must be a whole number")
    return int(text)


def read_list(texts: list[str]) -> Any:
    return texts


def parameter(
    name: str,
    location: str = "query",
    *,
    slot: int | None = None,
    read: Callable[[list[str]], Any] = read_text,
    is_required: bool = False,
    default: Any = MISSING,
    schema: dict[str, Any] | None = None,
    is_list: bool = False,
    segment: int = 0,
) -> ParameterPlan:
    written: dict[str, Any] = {"in": location, "schema": schema or {"type": "string"}, "required": is_required or location == "path"}
    if default is not MISSING:
        written["default"] = default
    return ParameterPlan(
        name=name,
        location=location,
        is_required=is_required or location == "path",
        default=default,
        slot=slot,
        read=read,
        source=config.Parameter.model_validate(written),
        is_list=is_list,
        segment=segment,
        field=name.lower().encode(),
    )


def body(
    *,
    slot: int = 0,
    is_required: bool = True,
    max_size_bytes: int = 1000,
    validate: Callable[[bytes], None] | None = None,
    source: config.Body | None = None,
) -> BodyPlan:
    def read(raw: bytes, frame: Frame) -> None:
        frame[slot] = raw

    return BodyPlan(
        kind="json",
        media_type=b"application/json",
        is_required=is_required,
        max_size_bytes=max_size_bytes,
        validate=validate,
        read=read,
        source=source,
    )


def operation(name: str, source: config.Step) -> OperationPlan:
    """What a step does, without what the document says about it."""
    if isinstance(source, config.ComputeStep):
        return ComputePlan(hook=source.compute, pool="thread", kind="thread", lane=name, limit=None, build=lambda _: b"{}")
    assert isinstance(source, config.CallStep)
    return CallPlan(
        upstream=source.upstream,
        method="GET",
        path=source.path,
        is_idempotent=True,
        is_coalesced=False,
        caching=None,
        worst_case_s=0.0,
        most_calls=1,
        forwarded="append",
        build=lambda _frame, _headers, _extra, _query: Request(method="GET", target="/"),
    )


def step(index: int, name: str, source: config.Step, *, needs: tuple[int, ...] = ()) -> StepPlan:
    def read(raw: bytes, frame: Frame) -> bytes:
        return raw

    return StepPlan(
        index=index,
        name=name,
        operation=operation(name, source),
        is_required=source.required,
        is_hidden=source.hidden,
        needs=needs,
        dependents=(),
        timeout_s=None,
        mode=DecodeMode.SPLICE,
        read=read,
        default=b"null",
        fill_default=None,
        source=source,
    )


def _assemble_nothing(values: list[bytes], frame: Frame) -> bytes:
    return b"{}"


def endpoint(
    path: str = "/briefing",
    method: str = "GET",
    *,
    name: str = "",
    parameters: tuple[ParameterPlan, ...] = (),
    body: BodyPlan | None = None,
    body_slot: int = 0,
    timeout_s: float = 5.0,
    steps: dict[str, dict[str, Any]] | None = None,
    needs: dict[str, tuple[int, ...]] | None = None,
    response: dict[str, Any] | None = None,
    record: RecordPlan | None = None,
    **written: Any,
) -> EndpointPlan:
    """An endpoint with one step `flight` unless others are given. `parameters`: of all locations, each with its slot or none.

    `body_slot`: the slot that `body` fills.
    """
    source = config.Endpoint.model_validate(
        {
            "path": path,
            "method": method,
            "steps": steps or {"flight": {"upstream": "flights", "path": "/flight"}},
            "response": response or {},
            **written,
        }
    )
    slots = [parameter.slot for parameter in parameters if parameter.slot is not None]
    if body is not None:
        slots.append(body_slot)
    return EndpointPlan(
        name=name or f"{method.lower()}{path.replace('/', '_').replace('{', '').replace('}', '')}",
        method=method,
        path=path,
        segments=split_path(path),
        timeout_s=timeout_s,
        max_requests=source.max_requests,
        path_parameters=tuple(item for item in parameters if item.location == "path"),
        query_parameters=tuple(item for item in parameters if item.location == "query"),
        header_parameters=tuple(item for item in parameters if item.location == "header"),
        cookie_parameters=tuple(item for item in parameters if item.location == "cookie"),
        body=body,
        slot_count=max([*slots, 0]) + 1,
        steps=tuple(step(index, key, item, needs=(needs or {}).get(key, ())) for index, (key, item) in enumerate(source.steps.items())),
        ready=(),
        response=ResponsePlan(
            assemble=_assemble_nothing,
            merged=(),
            visible=tuple(index for index, item in enumerate(source.steps.values()) if not item.hidden),
            status=source.response.status if isinstance(source.response.status, int) else 200,
            fields=tuple(
                ResponseField(name=key.lower().encode(), when="always", value=str(value).encode())
                for key, value in source.response.headers.items()
            ),
        ),
        record=record,
        source=source,
    )


def document(*endpoints: EndpointPlan, **written: Any) -> DocumentPlan:
    source = config.Document.model_validate({"version": 1, **written})
    return DocumentPlan(endpoints=endpoints, cors=source.cors, timeout_s=source.defaults.timeout_s, source=source)


def outcome(name: str, *, elapsed_ms: float = 1.0, failure: StepError | None = None, attempts: int = 1, upstream: str = "") -> Outcome:
    made = Outcome(name, upstream or f"{name}s")
    made.elapsed_s = elapsed_ms / 1000
    made.failure = failure
    made.raw = b"{}" if failure is None else None
    made.attempts = attempts
    return made


def result(*outcomes: Outcome, body: bytes | None = b'{"flight":{}}', status: int = 200, failure: StepError | None = None) -> Result:
    made = list(outcomes) or [outcome("flight")]
    is_complete = failure is None and all(item.failure is None for item in made)
    return Result(outcomes=made, status=status, body=None if failure else body, is_complete=is_complete, failure=failure)
