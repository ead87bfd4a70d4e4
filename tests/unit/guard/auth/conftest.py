from tests.support.clock import fake_time_loops as pytest_asyncio_loop_factories  # noqa: F401
