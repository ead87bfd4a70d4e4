"""Metrics as a part declares and reports them. What collects and exposes them is `anabranch.observe`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

MetricKind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family. `name`: with the prefix, without the suffix of its kind (`_total`, `_bucket`, `_info`)."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str

    @property
    def sample(self) -> str:
        """The name that queries use."""
        return self.name + {"counter": "_total", "gauge": "", "histogram": "_bucket", "info": "_info"}[self.kind]


def metric(kind: MetricKind, name: str, labels: str, meaning: str) -> Metric:
    """Declare a metric. `name`: without the prefix. `labels`: separated by spaces. `meaning`: a sentence in Markdown."""
    return Metric(name=f"anabranch_{name}", kind=kind, labels=tuple(labels.split()), meaning=meaning)


class Sample(NamedTuple):
    """One number now. `labels`: values in the metric's order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


@runtime_checkable
class Sampled(Protocol):
    """A part whose numbers are read at each scrape."""

    def samples(self) -> Iterable[Sample]:
        """Called in the event loop: it must not block."""
        ...
