"""Simulated time: a clock for the pure algorithms, and an event loop whose sleeps take no real time.

`FakeTimeLoop` is a real event loop whose `time()` jumps to the next timer as soon as nothing else is ready to run. A test may sleep for
an hour of loop time in a millisecond, and always sees the same order of events. Use it only in tests without sockets and threads: loop
time would run ahead of work outside the loop.

To run all async tests of a folder on it, put this in the folder's conftest:

    from tests.support.clock import fake_time_loops as pytest_asyncio_loop_factories
"""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any, Final

START: Final = 1000.0
_PATIENCE_S: Final = 5.0


class FakeClock:
    """A clock for code that takes one as an argument: call it for the time, `advance` it to let time pass."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: advances the clock to the timer instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events: list[tuple[selectors.SelectorKey, int]] = super().select(_PATIENCE_S)
            if not events:
                raise RuntimeError("the test would wait forever: no timer is set and nothing is ready")
            return events
        events = super().select(0)
        if not events and timeout > 0:
            self._clock.advance(timeout)
        return events


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time advances only to the next timer. `clock`: its clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(_JumpingSelector(self.clock))

    def time(self) -> float:
        return self.clock.now


def fake_time_loops(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For pytest-asyncio's hook `pytest_asyncio_loop_factories`: only the loop with fake time."""
    return {"fake_time": FakeTimeLoop}
