"""Collects and renders the metrics: those counted from events, and plain attributes of other parts, which are read at scrape time.

`main` passes in the parts; this module depends on protocols. A scrape runs in the event loop's thread, so that its numbers are consistent.
It takes about 1 ms for a document of 50 endpoints.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import time
from typing import Final, NamedTuple, Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from anabranch import __version__
from anabranch.observe import catalogue as names
from anabranch.observe.calls import CallMetrics
from anabranch.observe.counting import Durations
from anabranch.observe.looplag import LoopLag
from anabranch.observe.requests import RequestMetrics
from anabranch.policy.stack import Stack

_STATES: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class Sample(NamedTuple):
    """One number reported by a part. `metric`: a name of the catalogue. `labels`: values in the catalogue's order."""

    metric: str
    labels: tuple[str, ...]
    value: float


Source = Callable[[], Iterable[Sample]]
"""Reads the numbers of one part. Called at each scrape, in the event loop: it must not block."""


@runtime_checkable
class Connections(Protocol):
    """A transport that can count its open connections."""

    @property
    def connections(self) -> int: ...

    @property
    def idle_connections(self) -> int: ...


class Upstreams(Protocol):
    """The open upstreams of the document in force."""

    @property
    def stacks(self) -> Mapping[str, Stack]: ...

    @property
    def transports(self) -> Mapping[str, object]: ...


class Gateway(Protocol):
    """The measured attributes of the data plane."""

    @property
    def in_flight(self) -> int: ...

    @property
    def endpoint_count(self) -> int: ...


class Metrics(Collector):
    """All metrics of the process, in a registry of their own. `requests` and `calls` are observers; `lag` measures the event loop."""

    def __init__(self) -> None:
        self.requests = RequestMetrics()
        self.calls = CallMetrics()
        self.lag = LoopLag()
        self._sources: dict[str, Source] = {}
        self._upstreams: Callable[[], Upstreams | None] = lambda: None
        self._gateway: Callable[[], Gateway | None] = lambda: None
        self._started = time()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def watch(self, *, upstreams: Callable[[], Upstreams | None], gateway: Callable[[], Gateway | None]) -> None:
        """Set the objects whose attributes are read at each scrape. They are passed as functions because a reload replaces them."""
        self._upstreams = upstreams
        self._gateway = gateway

    def register(self, part: str, source: Source) -> None:
        """Expose the numbers of one more part. Replaces a part registered under the same name."""
        self._sources[part] = source

    def unregister(self, part: str) -> None:
        self._sources.pop(part, None)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its media type. The Accept header `accept` selects OpenMetrics, which has exemplars, or plain text."""
        if "application/openmetrics-text" in accept:
            return openmetrics.generate_latest(self._registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        yield from self._request_families()
        yield from self._call_families()
        yield from self._upstream_families()
        yield from self._process_families()
        yield from self._source_families()

    # ------------------------------------------------------------------------------------------------------- counted

    def _request_families(self) -> Iterator[Family]:
        requests, duration, sent = _counter(names.REQUESTS), _histogram(names.REQUEST_DURATION), _counter(names.RESPONSE_BYTES)
        steps, step_duration = _counter(names.STEPS), _histogram(names.STEP_DURATION)
        for endpoint, series in self.requests.endpoints.items():
            for status, complete, count in series.rows():
                requests.add_metric((endpoint, status, complete), count)
            for (status_class, complete), durations in series.durations.items():
                _add(duration, (endpoint, status_class, complete), durations)
            sent.add_metric((endpoint,), series.sent_bytes)
            for step, one in series.steps.items():
                for reason, count in one.reasons.items():
                    steps.add_metric((endpoint, step, one.upstream, reason), count)
                _add(step_duration, (endpoint, step), one.durations)
        yield from (requests, duration, sent, steps, step_duration)

    def _call_families(self) -> Iterator[Family]:
        attempts, duration, waits = (
            _counter(names.ATTEMPTS), _histogram(names.ATTEMPT_DURATION), _histogram(names.QUEUE_WAIT),
        )  # fmt: skip
        by_kind = {kind: _counter(metric) for kind, metric in _BY_KIND.items()}
        for upstream, series in self.calls.upstreams.items():
            for reason, count in series.attempts.items():
                attempts.add_metric((upstream, reason), count)
            _add(duration, (upstream,), series.attempt_durations)
            _add(waits, (upstream,), series.queue_waits)
            for kind, counts in series.counted.items():
                family = by_kind.get(kind)
                if family is None:
                    continue  # only its waiting time is exposed
                if len(_BY_KIND[kind].labels) == 1:
                    family.add_metric((upstream,), sum(counts.values()))
                else:
                    for reason, count in counts.items():
                        family.add_metric((upstream, reason), count)
        yield from (attempts, duration, waits, *by_kind.values())

    # ------------------------------------------------------------------------------------------------------ read here

    def _upstream_families(self) -> Iterator[Family]:
        in_use, queued, limit = _gauge(names.BULKHEAD_IN_USE), _gauge(names.BULKHEAD_QUEUED), _gauge(names.BULKHEAD_LIMIT)
        state, ejected = _gauge(names.BREAKER_STATE), _gauge(names.EJECTED)
        is_open, idle = _gauge(names.CONNECTIONS_OPEN), _gauge(names.CONNECTIONS_IDLE)
        upstreams = self._upstreams()
        for name, stack in ({} if upstreams is None else upstreams.stacks).items():
            in_use.add_metric((name,), stack.bulkhead.in_use)
            queued.add_metric((name,), stack.bulkhead.queued)
            limit.add_metric((name,), stack.bulkhead.limit)
            if stack.breaker is not None:
                state.add_metric((name, ""), _STATES[stack.breaker.state])
            for target in () if stack.balance is None else stack.balance.targets:
                address = target.address
                where = address.origin if address.ip is None else f"{address.origin} {address.ip}"
                if target.breaker is not None:
                    state.add_metric((name, where), _STATES[target.breaker.state])
                ejected.add_metric((name, where), float(target.is_out))
        for name, outermost in ({} if upstreams is None else upstreams.transports).items():
            transport = _innermost(outermost)
            if isinstance(transport, Connections):
                is_open.add_metric((name,), transport.connections)
                idle.add_metric((name,), transport.idle_connections)
        yield from (in_use, queued, limit, state, ejected, is_open, idle)

    def _process_families(self) -> Iterator[Family]:
        build = InfoMetricFamily(names.BUILD.name, names.BUILD.meaning)
        build.add_metric((), {"version": __version__, "python": platform.python_version()})
        lag = _histogram(names.LOOP_LAG)
        _add(lag, (), self.lag.durations)
        started, in_flight, endpoints = _gauge(names.STARTED), _gauge(names.IN_FLIGHT), _gauge(names.DOCUMENT)
        started.add_metric((), self._started)
        gateway = self._gateway()
        if gateway is not None:
            in_flight.add_metric((), gateway.in_flight)
            endpoints.add_metric((), gateway.endpoint_count)
        yield from (build, lag, started, in_flight, endpoints)

    def _source_families(self) -> Iterator[Family]:
        """The numbers reported by the parts. A metric that is not in the catalogue is a bug, which the part's test finds."""
        families: dict[str, Family] = {}
        for source in self._sources.values():
            for sample in source():
                family = families.get(sample.metric)
                if family is None:
                    family = families[sample.metric] = _of_catalogue(names.ALL[sample.metric])
                if isinstance(family, CounterMetricFamily | GaugeMetricFamily):
                    family.add_metric(sample.labels, sample.value)
        yield from families.values()


_BY_KIND: Final = {
    "reject": names.REJECTIONS,
    "retry": names.RETRIES,
    "retry_denied": names.RETRIES_DENIED,
    "hedge": names.HEDGES,
    "hedge_won": names.HEDGES_WON,
    "hedge_denied": names.HEDGES_DENIED,
    "coalesce": names.COALESCED,
    "stale": names.STALE,
    "breaker": names.BREAKER_CHANGES,
    "limit": names.LIMIT_CHANGES,
    "balance": names.RESOLUTIONS,
    "eject": names.EJECTIONS,
    "restore": names.RESTORATIONS,
    "token": names.TOKENS,
}
"""The counter for each kind of policy event."""


def _innermost(transport: object) -> object:
    """The transport that owns the connections, inside any wrappers."""
    while (inner := getattr(transport, "inner", None)) is not None:
        transport = inner
    return transport


def _counter(metric: names.Metric) -> CounterMetricFamily:
    return CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)


def _gauge(metric: names.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


def _histogram(metric: names.Metric) -> HistogramMetricFamily:
    return HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)


def _of_catalogue(metric: names.Metric) -> Family:
    return _counter(metric) if metric.kind == "counter" else _gauge(metric)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], durations: Durations) -> None:
    family.add_metric(labels, durations.buckets(), durations.total_s)  # type: ignore[arg-type]  # None is accepted for "no exemplar"
