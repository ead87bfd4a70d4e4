"""A part: what lives as long as the service of a document, or as long as the process."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

Part = AbstractAsyncContextManager[Any]
"""Opened before the first request and closed after the last one. It may also be `core.metric.Sampled`, and `Noted`."""


@runtime_checkable
class Noted(Protocol):
    """A part that can be in trouble without taking the process out of service."""

    def notes(self) -> Iterable[str]:
        """What is wrong at the moment, as sentences for /readyz. Called in the event loop: it must not block."""
        ...
