"""The policy layers are tested on a loop whose time jumps."""

from tests.support.clock import fake_time_loops as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
