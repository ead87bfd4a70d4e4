"""Assembles the observers of requests, calls and steps that the settings enable, and owns what runs with them.

A disabled observer does not exist: its hook is None, and the code that would call it pays one comparison.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from anabranch.engine.event import AroundStep, ObserverOf, RequestTracer, ResponseEvent, ResponseObserver
from anabranch.errors import MissingExtraError
from anabranch.observe import sources
from anabranch.observe.access import AccessLog, Choice
from anabranch.observe.logs import Logs
from anabranch.observe.metrics import Metrics
from anabranch.observe.refusals import Refusals
from anabranch.observe.timing import Timings
from anabranch.plan.model import EndpointPlan
from anabranch.policy.event import Observer
from anabranch.upstream.seam import Transport

if TYPE_CHECKING:
    from anabranch.observe.tracing import Tracing

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Observation:
    """An async context manager. `metrics`, `timings`, `tracing`: None when disabled. `refusals`: the observer of refused connections.

    `policy`: the observer of the policy layers. `observer_of`: returns the observer of an endpoint. `tracer`, `around`: trace requests and
    steps.
    """

    def __init__(
        self,
        logs: Logs,
        *,
        access: Choice = "errors",
        has_metrics: bool = True,
        has_timings: bool = False,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.logs = logs
        self.metrics = Metrics() if has_metrics else None
        self.timings = Timings() if has_timings else None
        self.refusals = Refusals(None if access == "off" else logs.events)
        self.tracing = tracing
        self.policy: Observer | None = None if self.metrics is None else self.metrics.calls
        self.tracer: RequestTracer | None = tracing
        self.around: AroundStep | None = None if tracing is None else tracing.around
        parts: list[ObserverOf] = []
        if self.metrics is not None:
            self.metrics.register("log", sources.of_log(logs.sink))
            self.metrics.register("refusals", sources.of_refusals(self.refusals))
            parts.append(self.metrics.requests.observer_of)
            if tracing is not None:
                self.metrics.register("spans", sources.of_spans(tracing))
        if self.timings is not None:
            parts.append(self.timings.observer_of)
        if access != "off":
            parts.append(AccessLog(logs.events, access).observer_of)
        self.observer_of: ObserverOf | None = None
        if parts:
            self.observer_of = parts[0] if len(parts) == 1 else partial(_each, tuple(parts))
        self._exits = AsyncExitStack()

    def transport(self, opened: Transport) -> Transport:
        """The transport to use for an upstream: `opened` itself, or a wrapper that creates a span for each exchange."""
        return opened if self.tracing is None else self.tracing.transport(opened)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            if self.tracing is not None:
                await exits.enter_async_context(self.tracing)
            if self.metrics is not None:
                await exits.enter_async_context(self.metrics.lag)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()


def open_tracing(environ: Mapping[str, str], *, ratio: float) -> "Tracing":
    """Tracing with the exporter that the OTEL_* variables configure. Raises ValueError with a sentence for the operator when they name no
    receiver, and MissingExtraError when the SDK is not installed."""
    if not any(environ.get(name) for name in _ENDPOINT_VARIABLES):
        raise ValueError("tracing is enabled, but OTEL_EXPORTER_OTLP_ENDPOINT is not set: set it to the address of an OTLP receiver")
    try:
        from anabranch.observe.tracing import Tracing, otlp_exporter  # noqa: PLC0415 - not loaded when tracing is off
    except ModuleNotFoundError as error:
        raise MissingExtraError("tracing", "otel") from error
    return Tracing(otlp_exporter(), ratio=ratio)


def _each(parts: tuple[ObserverOf, ...], plan: EndpointPlan | None) -> ResponseObserver:
    """One observer that calls all of them."""
    return _all_of(tuple(observer_of(plan) for observer_of in parts))


def _all_of(observers: tuple[Callable[[ResponseEvent], None], ...]) -> ResponseObserver:
    if len(observers) == 2:
        first, second = observers

        def both(event: ResponseEvent) -> None:
            first(event)
            second(event)

        return both

    def each(event: ResponseEvent) -> None:
        for observer in observers:
            observer(event)

    return each
