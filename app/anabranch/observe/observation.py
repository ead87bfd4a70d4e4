"""Assembles the observers of requests, calls and steps that the settings enable, and owns what runs with them.

A disabled observer does not exist: its hook is None, and the code that would call it pays one comparison.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from anabranch.core.metric import Sampled
from anabranch.document.service import Hooks
from anabranch.engine.event import ObserverOf, RequestTracer, ResponseEvent, ResponseObserver
from anabranch.errors import MissingExtraError
from anabranch.observe.access import AccessLog, Choice
from anabranch.observe.logs import Logs
from anabranch.observe.metrics import Metrics
from anabranch.observe.refusals import Refusals
from anabranch.observe.timing import Timings
from anabranch.plan.model import EndpointPlan
from anabranch.settings import Settings, wrong_setting

if TYPE_CHECKING:
    from anabranch.observe.tracing import Tracing

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Observation:
    """An async context manager. `metrics`, `timings`, `tracing`: None when disabled. `refusals`: the observer of refused connections.

    `hooks`: what watches a service. `observer_of`: returns the observer of an endpoint. `observe_others`: the observer of all other requests.
    `tracer`: traces requests.
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
        self.tracer: RequestTracer | None = tracing
        policy = None if self.metrics is None else self.metrics.calls
        self.hooks = Hooks(policy=policy) if tracing is None else Hooks(policy=policy, around=tracing.around, transport=tracing.transport)
        parts: list[ObserverOf] = []
        if self.metrics is not None:
            parts.append(self.metrics.requests.observer_of)
            self.watch(logs, self.refusals)
            if tracing is not None:
                self.watch(tracing)
        if self.timings is not None:
            parts.append(self.timings.observer_of)
        if access != "off":
            parts.append(AccessLog(logs.events, access).observer_of)
        self.observer_of: ObserverOf | None = None
        if parts:
            self.observer_of = parts[0] if len(parts) == 1 else partial(_each, tuple(parts))
        self.observe_others = None if self.observer_of is None else self.observer_of(None)
        self._exits = AsyncExitStack()

    def watch(self, *parts: Sampled) -> None:
        """Expose the numbers of these parts, if there are metrics."""
        if self.metrics is not None:
            for part in parts:
                self.metrics.watch(part.samples)

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


def open_observation(settings: Settings, logs: Logs, environ: Mapping[str, str]) -> Observation:
    """What the settings enable. `environ`: where the OTEL_* variables are. Raises ConfigError."""
    try:
        tracing = open_tracing(environ, ratio=settings.trace_ratio) if settings.tracing else None
    except (ValueError, MissingExtraError) as error:
        raise wrong_setting("TRACING", str(error)) from error
    return Observation(
        logs,
        access=settings.access_log,
        has_metrics=settings.metrics,
        has_timings=settings.admin_port is not None,
        tracing=tracing,
    )


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
