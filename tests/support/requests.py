"""Requests as the edge hands them to the engine, made without a client."""

from time import monotonic

from anabranch.edge.scope import join_headers
from anabranch.engine.request import ClientRequest
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import EndpointPlan

Lines = list[tuple[bytes, bytes]]


def request_of(
    plan: EndpointPlan,
    *,
    values: tuple[str | None, ...] = (),
    query: bytes = b"",
    lines: Lines | None = None,
    body: bytes = b"",
    frame: Frame | None = None,
    request_id: bytes = b"r-1",
    method: str | None = None,
    timeout_s: float | None = None,
    wants_notes: bool = False,
) -> ClientRequest:
    """A request for `plan` that arrives now. `lines`: header fields, lower-case names. `timeout_s`: the plan's own when None."""
    now = monotonic()
    lines = lines or []
    return ClientRequest(
        id=request_id,
        traceparent=None,
        propagated=(),
        method=method or plan.method,
        path=plan.path.encode(),
        query=query,
        path_values=values,
        headers=join_headers(lines),
        plan=plan,
        frame=plan.new_frame() if frame is None else frame,
        arrived=now,
        deadline=now + (plan.timeout_s if timeout_s is None else timeout_s),
        wants_notes=wants_notes,
        body=body,
    )
