"""The process pool with real processes: a function that harms its worker fails only its own job."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anabranch.compute.job import JobTimings
from anabranch.compute.processes.frame import ARENA_FROM
from anabranch.compute.processes.pool import ProcessPool
from anabranch.errors import ComputePoolDown, ComputeTimeout, WorkerLost
from tests.integration.compute.processes import children_of, descendants_of, is_alive, open_files, until_gone
from tests.support.jobs import job, outcome_of, value_of

HOOKS = ("tests.support.hooks:add",)


@asynccontextmanager
async def opened(
    workers: int = 1, *, recycle_after: int = 1000, max_memory_bytes: int | None = None, queue: int = 100
) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(
        "test", HOOKS, workers=workers, queue=queue, queue_timeout_s=None, recycle_after=recycle_after, max_memory_bytes=max_memory_bytes
    )
    await pool.aopen()
    try:
        # A worker may be ready before the fork server's message with its pid arrives.
        await until(lambda: len(pool.pids) == workers)
        yield pool
    finally:
        await pool.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_workers_are_warm_when_the_pool_is_open() -> None:
    pool = ProcessPool("test", HOOKS, workers=2, queue=100, queue_timeout_s=None, recycle_after=1000, max_memory_bytes=None)
    await pool.aopen()
    try:
        assert len(pool._admission._free) == 2, "each has said that it is ready, with its hooks imported"
        assert await value_of(pool, job("add", a=1)) == 3
    finally:
        await pool.aclose()


async def test_jobs_run_in_other_processes_in_parallel() -> None:
    async with opened(2) as pool:
        found = await asyncio.gather(*(value_of(pool, job("sleep", seconds=0.1)) for _ in range(2)), value_of(pool, job("pid")))
        assert found[2] in pool.pids
        assert found[2] != os.getpid()


@pytest.mark.parametrize("size", [0, 1, ARENA_FROM, ARENA_FROM + 1, 3 << 20])
async def test_payloads_of_every_size_pass_in_both_directions(size: int) -> None:
    async with opened() as pool:
        for _ in range(2):
            assert await value_of(pool, job("size", value="x" * size)) == size
            assert len(await value_of(pool, job("make", size=size))) == size
            assert await value_of(pool, job("echo", value="y" * size)) == "y" * size


async def test_the_loop_is_not_blocked_by_a_large_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    pieces: list[tuple[int, int]] = []
    write = os.pwrite

    async def watch() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        pieces.append((turns, len(data)))
        return write(file, data, offset)

    big = job("size", value="x" * (40 << 20), timeout_s=60)
    async with opened() as pool:
        monkeypatch.setattr("os.pwrite", pwrite)
        watching = asyncio.ensure_future(watch())
        assert await value_of(pool, big) == 40 << 20
        watching.cancel()
    assert sum(size for _, size in pieces) == len(big.input)
    assert max(size for _, size in pieces) <= 1 << 20
    assert len({turn for turn, _ in pieces}) == len(pieces), "others have a turn after each piece"


async def test_a_worker_with_a_timed_out_function_is_killed_and_replaced() -> None:
    async with opened() as pool:
        (before,) = pool.pids
        with pytest.raises(ComputeTimeout):
            await pool.run(job("spin", timeout_s=1.0), JobTimings())
        assert await value_of(pool, job("pid")) != before
        await until_gone([before])
        assert (pool.counters.timed_out, pool.counters.restarts, pool.counters.done) == (1, 1, 1)


@pytest.mark.parametrize(
    ("hook", "arguments", "reason"),
    [("leave", {"code": 7}, "exit code 7"), ("leave", {"code": 0}, "exit code 0"), ("crash", {}, r"signal 11 \(SIGSEGV\)")],
)
async def test_the_end_of_a_worker_is_reported_with_its_reason(hook: str, arguments: dict[str, Any], reason: str) -> None:
    async with opened() as pool:
        with pytest.raises(WorkerLost, match=reason):
            await pool.run(job(hook, **arguments), JobTimings())
        assert await value_of(pool, job("add", a=1)) == 3
        assert (pool.counters.lost, pool.counters.restarts) == (1, 1)


async def test_a_worker_killed_from_outside_fails_only_its_own_job() -> None:
    async with opened(2) as pool:
        victim = asyncio.ensure_future(outcome_of(pool, job("sleep", seconds=60, timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        other = asyncio.ensure_future(outcome_of(pool, job("pid")))
        survivor = await other
        (pid,) = set(pool.pids) - {survivor}
        os.kill(pid, signal.SIGKILL)
        assert await victim == "compute_worker_lost"
        assert await value_of(pool, job("add", a=1)) == 3


async def test_an_idle_worker_that_dies_fails_no_job() -> None:
    async with opened() as pool:
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        await until_gone([pid])
        assert await value_of(pool, job("add", a=1)) == 3


async def test_a_hook_that_closes_every_file_fails_its_own_job_only() -> None:
    async with opened() as pool:
        assert await outcome_of(pool, job("close_everything")) == "compute_worker_lost"
        assert await value_of(pool, job("add", a=1)) == 3


async def test_a_hook_that_exits_politely_keeps_its_worker() -> None:
    async with opened() as pool:
        before = pool.pids
        assert await outcome_of(pool, job("polite_exit")) == "compute_failed"
        assert pool.pids == before


async def test_a_client_disconnect_kills_its_job() -> None:
    async with opened() as pool:
        (before,) = pool.pids
        task = asyncio.ensure_future(value_of(pool, job("spin", timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await value_of(pool, job("add", a=1)) == 3
        await until_gone([before])
        assert pool.counters.cancelled == 1


async def test_workers_are_replaced_after_recycle_after_jobs() -> None:
    async with opened(recycle_after=3) as pool:
        pids = [await value_of(pool, job("pid")) for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


async def test_a_worker_above_its_memory_limit_is_replaced() -> None:
    async with opened(max_memory_bytes=200 << 20) as pool:
        small = await value_of(pool, job("hoard", megabytes=1))
        assert await value_of(pool, job("hoard", megabytes=256)) == small
        assert await value_of(pool, job("pid")) != small
        await until_gone([small])


async def test_a_process_started_by_a_hook_dies_with_its_worker() -> None:
    async with opened() as pool:
        child = await value_of(pool, job("leave_a_child"))
        assert is_alive(child)
        await outcome_of(pool, job("leave", code=1))
        await until_gone([child])


async def test_a_dead_fork_server_is_restarted() -> None:
    async with opened(2) as pool:
        workers = pool.pids
        assert pool.fork_server_pid is not None
        running = asyncio.ensure_future(outcome_of(pool, job("sleep", seconds=60, timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        os.kill(pool.fork_server_pid, signal.SIGKILL)
        assert await running == "compute_worker_lost"
        await until_gone(list(workers))
        assert await value_of(pool, job("add", a=1)) == 3
        assert set(workers).isdisjoint(pool.pids)


async def test_a_pool_whose_workers_cannot_start_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    pool = ProcessPool("test", HOOKS, workers=1, queue=10, queue_timeout_s=None, recycle_after=10, max_memory_bytes=None)
    await pool.aopen()
    try:
        async with asyncio.timeout(60):
            while await outcome_of(pool, job("add", a=1, timeout_s=0.2)) != "compute_pool_down":
                await asyncio.sleep(0.01)
        monkeypatch.undo()
        async with asyncio.timeout(60):
            while await outcome_of(pool, job("add", a=1)) != 3:
                await asyncio.sleep(0.05)
    finally:
        await pool.aclose()


async def test_signals_to_the_process_group_do_not_reach_workers() -> None:
    async with opened() as pool:
        (pid,) = pool.pids
        assert pool.fork_server_pid is not None
        for target in (pid, pool.fork_server_pid):
            os.kill(target, signal.SIGINT)
            os.kill(target, signal.SIGTERM)
        assert await value_of(pool, job("pid")) == pid


async def test_output_of_a_hook_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    async with opened() as pool:
        await value_of(pool, job("shout", text="from a hook"))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "from a hook" in captured.err


async def test_a_closed_pool_leaves_nothing_behind() -> None:
    files, children = open_files(), children_of(os.getpid())
    async with opened(2) as pool:
        pids = [*pool.pids, pool.fork_server_pid]
        for _ in range(3):
            await outcome_of(pool, job("crash"))
            await outcome_of(pool, job("spin", timeout_s=0.05))
        running = asyncio.ensure_future(outcome_of(pool, job("sleep", seconds=60, timeout_s=60)))
        await until(lambda: pool.counters.running == 1)
        pids += descendants_of(os.getpid())
    assert await running == "compute_pool_down"
    assert not any(is_alive(pid) for pid in pids if pid is not None and pid not in children)
    assert set(children_of(os.getpid())) <= set(children)
    assert open_files() <= files
    with pytest.raises(ComputePoolDown):
        await pool.run(job("add", a=1), JobTimings())
