"""Detects coroutines that block the event loop, by measuring the time between two of their awaits.

An async hook shares the loop with every other request. A hook that blocks cannot be stopped, but it is reported with the time it took.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter
from typing import Any


class Watched(Awaitable[Any]):
    """Awaits `coroutine`. `on_stall`: called with the seconds of each run between two awaits that took longer than `threshold_s`.

    Measures only the coroutine itself, not tasks that it starts. Passes on cancellation and exceptions unchanged.
    """

    __slots__ = ("_coroutine", "_on_stall", "_threshold_s")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, threshold_s: float, on_stall: Callable[[float], None]) -> None:
        self._coroutine = coroutine
        self._threshold_s = threshold_s
        self._on_stall = on_stall

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        step: Callable[[Any], Any] = coroutine.send
        value: Any = None
        while True:
            began = perf_counter()
            try:
                yielded = step(value)
            except StopIteration as end:
                return end.value
            finally:
                blocked_s = perf_counter() - began
                if blocked_s > self._threshold_s:
                    self._on_stall(blocked_s)
            try:
                value = yield yielded
                step = coroutine.send
            except BaseException as error:  # noqa: BLE001 - everything, cancellation above all, is thrown into the coroutine
                step, value = coroutine.throw, error
