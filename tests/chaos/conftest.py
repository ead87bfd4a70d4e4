"""Runs the scenarios on uvloop, as `anabranch run` does, and those marked `both_loops` on asyncio's own loop too.

Every test must leave no task and no socket behind.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.support.leaks import no_leaks


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_loops: run on asyncio's own loop as well as on uvloop")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("both_loops"):
        loops["asyncio"] = asyncio.new_event_loop
    return loops


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Fails the test when it leaves a task or a socket behind."""
    async with no_leaks():
        yield
