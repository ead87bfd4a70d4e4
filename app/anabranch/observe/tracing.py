"""OpenTelemetry spans of requests, steps and attempts, and the propagation of the trace context. Imported only when tracing is on.

    flights/{id}/briefing      server    from the head of the request to the end of its answer
     +-- step weather          internal  a step with its retries, hedges and queues
          +-- GET              client    one exchange; the upstream sees this span as its parent

Attributes follow the HTTP semantic conventions, stable since 1.23. Text that a client can choose freely (the path) appears only in
attributes, never in a span's name. Queries are left out everywhere: they may contain private data.

**Source:** W3C Trace Context; OpenTelemetry semantic conventions for HTTP spans.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Token
from typing import Final, Self

import msgspec
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from anabranch import __version__
from anabranch.core.exchange import Address, Answer, Request
from anabranch.core.metric import Sample
from anabranch.engine.event import ResponseEvent
from anabranch.engine.outcome import Outcome
from anabranch.errors import StepError
from anabranch.observe.catalogue import SPANS
from anabranch.plan.model import StepPlan
from anabranch.upstream.seam import Transport

_CONTEXT_FIELDS: Final = frozenset({b"traceparent", b"tracestate"})
_ERROR: Final = Status(StatusCode.ERROR)


class Tracing:
    """Creates the spans and owns their export. An async context manager; its exit flushes the remaining spans (5 s at most).

    `exporter`: receives finished spans, in batches, in a thread of its own. `ratio`: share of requests without a parent that are sampled;
    for requests with a parent, its decision applies. `exported`, `failed`: spans that the exporter delivered or could not deliver.
    """

    def __init__(self, exporter: SpanExporter, *, ratio: float = 1.0) -> None:
        self._counted = _Counted(exporter)
        resource = _named(Resource.create({"service.version": __version__}))
        self._provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(ratio), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._counted))
        self._tracer = self._provider.get_tracer("anabranch", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(SPANS, ("ok",), self.exported)
        yield Sample(SPANS, ("failed",), self.failed)

    @property
    def exported(self) -> int:
        return self._counted.exported

    @property
    def failed(self) -> int:
        return self._counted.failed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._provider.shutdown)

    def begin(self, endpoint: str, route: str, method: str, path: str, headers: Mapping[bytes, bytes]) -> "RequestSpan":
        """See `anabranch.engine.event.RequestTracer`."""
        carrier = {name: headers[name.encode()].decode("latin-1") for name in ("traceparent", "tracestate") if name.encode() in headers}
        parent = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(
            f"{method} {route}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "http.route": route,
                "url.path": path,
                "url.scheme": "http",
                "anabranch.endpoint": endpoint,
            },
        )
        return RequestSpan(span)

    async def around(self, step: StepPlan, run: Callable[[StepPlan], Awaitable[Outcome]]) -> Outcome:
        """See `anabranch.engine.event.AroundStep`."""
        span = self._tracer.start_span(f"step {step.name}", attributes={"anabranch.step": step.name, "anabranch.upstream": step.upstream})
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            outcome = await run(step)
        except BaseException:
            span.set_attribute("error.type", "cancelled")
            raise
        else:
            span.set_attribute("anabranch.attempts", outcome.attempts)
            span.set_attribute("anabranch.queue_ms", outcome.queue_s * 1000)
            if outcome.failure is not None:
                span.set_attribute("error.type", outcome.failure.code)
                span.set_status(_ERROR)
            return outcome
        finally:
            contexts.detach(token)
            span.end()

    def transport(self, inner: Transport) -> "TracedTransport":
        """`inner` with a client span around each of its exchanges."""
        return TracedTransport(inner, self._tracer)


class RequestSpan:
    """See `anabranch.engine.event.RequestSpan`. Current in the request's task until it ends."""

    __slots__ = ("_span", "_token", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = traceparent(span)
        self._token: Token[contexts.Context] = contexts.attach(trace.set_span_in_context(span))

    def end(self, event: ResponseEvent) -> None:
        span = self._span
        span.set_attribute("http.response.status_code", event.status)
        span.set_attribute("http.response.body.size", event.sent_bytes)
        span.set_attribute("anabranch.request_id", event.request_id.decode())
        if event.is_complete is not None:
            span.set_attribute("anabranch.complete", event.is_complete)
        # A client error is not an error of the server's span.
        if event.status >= 500:
            span.set_attribute("error.type", event.code or str(event.status))
            span.set_status(_ERROR)
        contexts.detach(self._token)
        span.end()


class TracedTransport:
    """A `seam.Transport` around another one: each exchange has a span, which is sent to the upstream as the parent."""

    def __init__(self, inner: Transport, tracer: trace.Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    @property
    def inner(self) -> Transport:
        """The wrapped transport."""
        return self._inner

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        """See `seam.Transport`."""
        path = f"{address.base_path}{request.target.partition('?')[0]}"
        span = self._tracer.start_span(
            request.method,
            kind=SpanKind.CLIENT,
            attributes={
                "http.request.method": request.method,
                "server.address": address.host,
                "server.port": address.port,
                "url.full": f"{address.origin}{path}",
            },
        )
        try:
            answer = await self._inner.exchange(_with_context(request, span), address, deadline)
        except BaseException as error:
            span.set_attribute("error.type", error.code if isinstance(error, StepError) else "cancelled")
            span.set_status(_ERROR)
            raise
        else:
            span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= 400:
                span.set_attribute("error.type", str(answer.status))
                span.set_status(_ERROR)
            return answer
        finally:
            span.end()

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(SpanExporter):
    """Counts exported spans. Called only in the batch processor's thread."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.exported = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


def traceparent(span: Span) -> bytes:
    """The `traceparent` field that identifies this span. **Source:** W3C Trace Context section 3.2."""
    context = span.get_span_context()
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def _with_context(request: Request, span: Span) -> Request:
    """The request with this span as its trace context, replacing any other."""
    extra = [pair for pair in request.extra if pair[0] not in _CONTEXT_FIELDS]
    extra.append((b"traceparent", traceparent(span)))
    state = span.get_span_context().trace_state.to_header()
    if state:
        extra.append((b"tracestate", state.encode()))
    return msgspec.structs.replace(request, extra=tuple(extra))


def _named(resource: Resource) -> Resource:
    """The resource with the service name `anabranch`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES set one."""
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        return resource.merge(Resource({"service.name": "anabranch"}))
    return resource


def otlp_exporter() -> SpanExporter:
    """The OTLP/HTTP exporter, configured by the OTEL_EXPORTER_OTLP_* variables."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - tests do not need it

    return OTLPSpanExporter()
