"""The life of one request that an endpoint of the document or a route in Python serves: counted while it runs, traced, reported once."""

from time import monotonic
from typing import Final

from anabranch.edge.generation import Generation
from anabranch.edge.request_id import Trace
from anabranch.engine.event import RequestSpan, RequestTracer, ResponseEvent, ResponseObserver
from anabranch.engine.outcome import Result

CLIENT_GONE: Final = 499
"""Status in logs and metrics of a request whose client disconnected, as in nginx."""


class Served:
    """Made when the request arrives; `end` is called when it is over, whatever ended it.

    The server of the request writes down what it knows: `status` (as sent; 499 until a response is sent), `code` (of the problem that was
    answered; None takes it from `result`), `result` (None when no step ran), `sent_bytes` (of the body).
    """

    __slots__ = ("_endpoint", "_generation", "_span", "arrived", "code", "method", "path", "result", "sent_bytes", "status", "trace")

    def __init__(self, method: str, path: str, trace: Trace, arrived: float) -> None:
        self.method = method
        self.path = path
        self.trace = trace
        self.arrived = arrived
        self.status = CLIENT_GONE
        self.code: str | None = None
        self.result: Result | None = None
        self.sent_bytes = 0
        self._endpoint: str | None = None
        self._generation: Generation | None = None
        self._span: RequestSpan | None = None

    def begin(
        self, endpoint: str, route: str, headers: dict[bytes, bytes], generation: Generation, tracer: RequestTracer | None = None
    ) -> None:
        """An endpoint was found: count the request as in flight on `generation`, and start its span. `route`: the path template."""
        self._endpoint = endpoint
        self._generation = generation
        generation.active += 1
        if tracer is not None:
            self._span = tracer.begin(endpoint, route, self.method, self.path, headers)

    @property
    def traceparent(self) -> bytes | None:
        """Of the request's own span, else the client's; None without either."""
        return self.trace.traceparent if self._span is None else self._span.traceparent

    @property
    def is_counted(self) -> bool:
        """Whether it has begun on a generation."""
        return self._generation is not None

    def end(self, observe: ResponseObserver | None, endpoint: str | None = None) -> None:
        """The request is over: report it. `endpoint`: its name, if it has not begun; None for a path that nothing serves."""
        if self._generation is not None:
            self._generation.leave()
        span = self._span
        if observe is None and span is None:
            return
        result = self.result
        code = self.code
        if code is None and result is not None and result.failure is not None:
            code = result.failure.code
        # A client error is neither whole nor partial: the request got no response of the endpoint's.
        is_complete = None if result is None or 400 <= self.status < 500 else result.is_complete
        event = ResponseEvent(
            self._endpoint or endpoint,
            self.method,
            self.path,
            self.status,
            code,
            is_complete,
            monotonic() - self.arrived,
            result,
            self.trace.request_id,
            self.traceparent,
            self.sent_bytes,
            is_complete is False and result is not None and result.failure is None and result.is_absent,
        )
        if span is not None:
            span.end(event)
        if observe is not None:
            observe(event)
