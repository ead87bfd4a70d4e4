"""What the edge tells whoever watches the requests: one value a request, and the shape of those who listen. Knows no log, metric or trace.

All of them are optional: where nobody listens, a request pays one comparison.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from anabranch.engine.outcome import Outcome, Result
from anabranch.plan.model import EndpointPlan, StepPlan


class ResponseEvent(msgspec.Struct, frozen=True):
    """One request that is over.

    `endpoint`: name of its plan, or the path template of a route in Python; None when the request reached neither.
    `path`: percent-decoded, without the query; whatever the client wrote. `status`: as sent; 499 when nobody waited for the answer.
    `code`: of the problem that was answered; None when it was none. `is_complete`: no step failed; None when no step was run.
    `elapsed_s`: from the head of the request to the last byte handed to the server. `result`: None when no step was run.
    `traceparent`: of the request's own span when it is traced, else the one that the client sent; None when there is neither.
    `sent_bytes`: of the body.
    """

    endpoint: str | None
    method: str
    path: str
    status: int
    code: str | None
    is_complete: bool | None
    elapsed_s: float
    result: Result | None
    request_id: bytes
    traceparent: bytes | None
    sent_bytes: int


class Refusal(msgspec.Struct, frozen=True):
    """What was refused before it was a request, so that there is no event of it; its connection is closed.

    `code`, `status`, `detail`: of the problem, whether or not it could still be told. Nothing that the client sent is in it.
    `request_id`: in the problem. `client`: address and port of the other side; None when it has none.
    """

    code: str
    status: int
    detail: str
    request_id: str
    client: tuple[str, int] | None


# Called in the loop. It must be quick and must not raise.
RefusalObserver = Callable[[Refusal], None]

# Called in the loop, right after the answer was handed to the server. It must be quick and must not raise.
ResponseObserver = Callable[[ResponseEvent], None]

# Gives each endpoint its observer when a document is loaded, so that whatever it counts in is looked up once; None: for requests that
# reach no endpoint.
ObserverOf = Callable[[EndpointPlan | None], ResponseObserver]


class RequestSpan(Protocol):
    """One traced request. `traceparent`: what says so to others (W3C Trace Context)."""

    @property
    def traceparent(self) -> bytes | None: ...

    def end(self, event: ResponseEvent) -> None:
        """The request is over. Called once, in the task that began it."""
        ...


class RequestTracer(Protocol):
    """Begins a span for each request that reaches an endpoint."""

    def begin(self, endpoint: str, route: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> RequestSpan:
        """Called in the request's task, before any step. `endpoint`: its name. `route`: its path template. `headers`: the client's,
        lower-case names."""
        ...


# Runs a step by calling what it is given, once, and hands on what that returns or raises.
AroundStep = Callable[[StepPlan, Callable[[StepPlan], Awaitable[Outcome]]], Awaitable[Outcome]]
