"""Every test of this folder that takes `rig` runs for both transports, on asyncio's own loop and on uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.support.leaks import no_leaks
from tests.support.rig import Rig


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["wire", "httpx"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Fails the test when it leaves a socket or a task behind."""
    async with no_leaks():
        made = Rig(request.param)
        try:
            yield made
        finally:
            await made.aclose()


@pytest.fixture
async def wire() -> AsyncIterator[Rig]:
    """For guarantees of our own transport only."""
    async with no_leaks():
        made = Rig("wire")
        try:
            yield made
        finally:
            await made.aclose()
