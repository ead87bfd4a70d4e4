"""Authenticators of tokens are tested on an event loop with simulated time."""

from tests.support.clock import fake_time_loops as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
