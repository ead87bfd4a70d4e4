"""Reads the numbers that other parts keep as plain attributes, for a scrape. Each function makes a `metrics.Source` of one part.

The parts themselves know nothing of metrics: what is asked of them stands here as protocols.
"""

from collections.abc import Iterator
from typing import Protocol

from app.engine.reload import ReloadState
from app.observe import catalogue as names
from app.observe.metrics import Sample, Source
from app.observe.sink import LineSink


class _Reloader(Protocol):
    @property
    def state(self) -> ReloadState: ...


def of_reloads(reloader: _Reloader) -> Source:
    """Which document is in force and how reloads went."""

    def read() -> Iterator[Sample]:
        state = reloader.state
        yield Sample(names.RELOADS.name, ("ok",), state.succeeded)
        yield Sample(names.RELOADS.name, ("failed",), state.failed)
        yield Sample(names.RELOAD_FAILED.name, (), float(state.is_failed))
        yield Sample(names.GENERATION.name, (), state.generation)
        yield Sample(names.LOADED.name, (), state.loaded_at)
        yield Sample(names.RETIRING.name, (), state.retiring)

    return read


def of_log(sink: LineSink) -> Source:
    """Lines that could not be written."""
    return lambda: (Sample(names.LOG_LINES_LOST.name, (), sink.lost),)


class _Spans(Protocol):
    @property
    def exported(self) -> int: ...

    @property
    def failed(self) -> int: ...


def of_spans(spans: _Spans) -> Source:
    """What became of finished spans."""
    return lambda: (Sample(names.SPANS.name, ("ok",), spans.exported), Sample(names.SPANS.name, ("failed",), spans.failed))
