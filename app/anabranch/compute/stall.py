"""Coroutines watched for blocking: how long the event loop is held between two of their awaits.

An async hook shares the loop with every other request. This cannot stop one that blocks, but it says which one it was, and for how long.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter
from typing import Any


class Watched(Awaitable[Any]):
    """Awaits `coroutine`. `on_stall`: told the seconds of each turn that took longer than `threshold_s`.

    Sees the coroutine's own turns; tasks that it starts run by themselves. Cancellation and exceptions go through untouched.
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
                held_s = perf_counter() - began
                if held_s > self._threshold_s:
                    self._on_stall(held_s)
            try:
                value = yield yielded
                step = coroutine.send
            except BaseException as error:  # noqa: BLE001 - a cancellation, above all, belongs to the coroutine
                step, value = coroutine.throw, error
