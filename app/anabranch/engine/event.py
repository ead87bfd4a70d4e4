"""Events that the edge emits, one per finished request, and the interfaces of their observers. Imports no log, metric or trace library.

All observers are optional: without one, a request pays one comparison.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from anabranch.engine.outcome import Outcome, Result
from anabranch.plan.model import EndpointPlan, StepPlan


class ResponseEvent(msgspec.Struct, frozen=True):
    """One finished request.

    `endpoint`: name of its plan, or the path template of a route in Python; None when the request reached neither.
    `path`: percent-decoded, without the query, otherwise as the client sent it. `status`: as sent; 499 when the client disconnected.
    `code`: code of the problem that was sent; None for any other response. `is_complete`: no step failed and none has a stale answer; None
    when no step ran, and for a client error (4xx). `is_absent`: incomplete only because services said that what was asked for is not there. `elapsed_s`: from the request's head to the last byte handed to the server. `result`: None when no step ran.
    `traceparent`: that of the request's own span if it is traced, else the client's; None when there is neither.
    `sent_bytes`: size of the body sent.
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
    is_absent: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """A connection that was refused and closed because of malformed, oversized or late input, usually before there was a request.

    `code`, `status`, `detail`: those of the problem, even when it could no longer be sent. They contain nothing that the client sent.
    `request_id`: as in the problem. `client`: address and port of the peer; None when unknown.
    """

    code: str
    status: int
    detail: str
    request_id: str
    client: tuple[str, int] | None


# Called on the event loop. Must be quick and must not raise.
RefusalObserver = Callable[[Refusal], None]

# Called on the event loop, right after the response was handed to the server. Must be quick and must not raise.
ResponseObserver = Callable[[ResponseEvent], None]

# Returns the observer of an endpoint's requests, or with None the one of requests that reach no endpoint. Called when a document is loaded,
# so that an observer looks up its counters only once.
ObserverOf = Callable[[EndpointPlan | None], ResponseObserver]


class RequestSpan(Protocol):
    """The span of one request. `traceparent`: identifies the span to other services (W3C Trace Context); may be None."""

    @property
    def traceparent(self) -> bytes | None: ...

    def end(self, event: ResponseEvent) -> None:
        """End the span. Called once, when the request is finished, in the task that began the span."""
        ...


class RequestTracer(Protocol):
    """Begins a span for each request that reaches an endpoint."""

    def begin(self, endpoint: str, route: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> RequestSpan:
        """Begin a span. Called in the request's task, before any step runs. `endpoint`: its name. `route`: its path template. `headers`: the
        client's, with lower-case names."""
        ...


# Wraps the run of a step: calls the given function with the step, once, and returns or raises what that call returns or raises.
AroundStep = Callable[[StepPlan, Callable[[StepPlan], Awaitable[Outcome]]], Awaitable[Outcome]]
