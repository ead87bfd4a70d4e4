"""The thread pool: bounded, counts threads that do not return, and never blocks the loop."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from anabranch.compute.job import JobTimings
from anabranch.compute.threads import ThreadPool
from anabranch.errors import ComputePoolDown, ComputeTimeout
from tests.support import hooks
from tests.support.jobs import job, outcome_of, value_of


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """The event that the hook `held` waits for. Set at the end, so that no thread remains for the next test."""
    hooks.GATE.clear()
    yield hooks.GATE
    hooks.GATE.set()


@asynccontextmanager
async def opened(workers: int = 2, *, queue: int = 16, stall_s: float = 1.0) -> AsyncIterator[ThreadPool]:
    pool = ThreadPool("test", workers=workers, queue=queue, queue_timeout_s=None, stall_s=stall_s)
    await pool.aopen()
    try:
        yield pool
    finally:
        await pool.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.005)


async def until_unstuck(pool: ThreadPool) -> None:
    await until(lambda: not pool.counters.stuck and not pool.counters.running)


def threads() -> int:
    """The threads of the pool. A thread that is ending may take a moment to disappear."""
    return sum(thread.name.startswith("compute-test-") for thread in threading.enumerate())


async def test_a_function_runs_beside_the_loop(gate: threading.Event) -> None:
    async with opened() as pool:
        slow = asyncio.ensure_future(value_of(pool, job("held", timeout_s=60)))
        assert await value_of(pool, job("add", a=1)) == 3
        assert not slow.done()
        gate.set()
        assert await slow == "held"
        assert (pool.counters.done, pool.counters.running) == (2, 0)


async def test_threads_start_on_demand_and_none_is_leaked() -> None:
    await until(lambda: threads() == 0)
    async with opened(8) as pool:
        assert threads() == 0
        await value_of(pool, job("add", a=1))
        assert threads() == 1
    await until(lambda: threads() == 0)


async def test_queue_time_and_run_time_are_reported_separately(gate: threading.Event) -> None:
    async with opened(1) as pool:
        first = asyncio.ensure_future(value_of(pool, job("held", timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        timings, began = JobTimings(), monotonic()
        second = asyncio.ensure_future(pool.run(job("add", a=1), timings))
        await until(lambda: pool.counters.queued == 1)
        await asyncio.sleep(0.1)
        gate.set()
        result = await second
        assert result.queue_s >= 0.1
        assert result.queue_s + result.run_s <= monotonic() - began
        assert (timings.queue_s, timings.run_s, timings.attempts) == (result.queue_s, result.run_s, 1)
        await first


async def test_a_timed_out_function_is_abandoned_and_counted_until_it_returns(gate: threading.Event) -> None:
    async with opened(2) as pool:
        with pytest.raises(ComputeTimeout):
            await pool.run(job("held", timeout_s=0.4), JobTimings())
        assert (pool.counters.stuck, pool.counters.timed_out) == (1, 1)
        gate.set()
        await until_unstuck(pool)
        assert await value_of(pool, job("held")) == "held"


async def test_calls_of_a_stuck_function_are_rejected_before_it_occupies_all_threads(gate: threading.Event) -> None:
    async with opened(2) as pool:
        assert await outcome_of(pool, job("held", timeout_s=0.4)) == "compute_timeout"
        assert await outcome_of(pool, job("held")) == "compute_pool_full"
        assert await outcome_of(pool, job("add", a=1)) == 3
        gate.set()
        await until_unstuck(pool)


async def test_a_pool_of_stuck_threads_rejects_at_once(gate: threading.Event) -> None:
    async with opened(1) as pool:
        stuck = asyncio.ensure_future(outcome_of(pool, job("held", timeout_s=0.4)))
        await until(lambda: pool.counters.running == 1)
        waiting = asyncio.ensure_future(outcome_of(pool, job("add", a=1, timeout_s=60)))
        assert await stuck == "compute_timeout"
        assert await waiting == "compute_pool_full"
        assert await outcome_of(pool, job("add", a=1)) == "compute_pool_full"
        gate.set()
        await until_unstuck(pool)
        assert await outcome_of(pool, job("add", a=1)) == 3


async def test_a_client_disconnect_does_not_free_the_thread(gate: threading.Event) -> None:
    async with opened(1) as pool:
        task = asyncio.ensure_future(value_of(pool, job("held", timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        task.cancel()
        await asyncio.wait([task])
        assert (pool.counters.cancelled, pool.counters.running, pool.counters.stuck) == (1, 1, 0)
        gate.set()
        assert await value_of(pool, job("add", a=1)) == 3


async def test_an_abandoned_function_counts_as_stuck_after_its_timeout(gate: threading.Event) -> None:
    async with opened(1) as pool:
        task = asyncio.ensure_future(value_of(pool, job("held", timeout_s=0.4)))
        await until(lambda: pool.counters.running == 1)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: pool.counters.stuck == 1)
        gate.set()
        await until_unstuck(pool)


async def test_context_variables_do_not_leak_from_call_to_call() -> None:
    hooks.MARK.set("the loop's")
    async with opened(1) as pool:
        assert await value_of(pool, job("mark", text="first")) == "unset"
        assert await value_of(pool, job("mark", text="second")) == "unset"


async def test_a_hooks_error_message_is_logged_and_not_in_the_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as pool:
        with pytest.raises(Exception, match="the function raised an exception") as caught:
            await pool.run(job("raises", message="the-secret", lane="it.step"), JobTimings())
        assert "the-secret" not in str(caught.value)
    assert "the-secret" in caplog.text
    assert "tests.support.hooks:raises of step it.step" in caplog.text


async def test_an_async_hook_runs_on_the_loop_without_a_thread() -> None:
    await until(lambda: threads() == 0)
    async with opened() as pool:
        assert await value_of(pool, job("later", value=7)) == 7
        assert threads() == 0


@pytest.mark.parametrize(("hook", "code"), [("async_raises", "compute_failed"), ("never", "compute_timeout")])
async def test_an_async_hook_fails_like_any_other(hook: str, code: str) -> None:
    async with opened() as pool:
        assert await outcome_of(pool, job(hook, timeout_s=0.4)) == code
        await until_unstuck(pool)


async def test_an_async_hook_that_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with opened(stall_s=0.02) as pool:
        assert await outcome_of(pool, job("block", seconds=0.05)) is None
    # One warning for each long turn of the loop; on a busy machine there may be further ones.
    said = [record.getMessage() for record in caplog.records if "event loop" in record.getMessage()]
    assert said
    assert all("tests.support.hooks:block" in line for line in said)


async def test_an_async_hook_that_ignores_cancellation_counts_as_stuck() -> None:
    async with opened(2) as pool:
        assert await outcome_of(pool, job("stubborn", seconds=2.0, timeout_s=0.4)) == "compute_timeout"
        assert pool.counters.stuck == 1
        await until_unstuck(pool)


async def test_a_client_disconnect_cancels_an_async_hook() -> None:
    async with opened(1) as pool:
        task = asyncio.ensure_future(value_of(pool, job("never")))
        await until(lambda: pool.counters.running == 1)
        task.cancel()
        await asyncio.wait([task])
        assert pool.counters.running == 0


async def test_a_closed_pool_rejects_jobs() -> None:
    async with opened() as pool:
        pass
    with pytest.raises(ComputePoolDown):
        await pool.run(job("add", a=1), JobTimings())


async def test_closing_does_not_wait_for_a_function_that_never_returns(gate: threading.Event) -> None:
    async with opened(1) as pool:
        task = asyncio.ensure_future(outcome_of(pool, job("held", timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
    assert not gate.is_set()
    assert await task == "compute_pool_down"
