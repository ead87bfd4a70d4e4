"""The dask backend against a real scheduler and two workers: answers, deadlines, cancellation, and a cluster that stops and restarts.

One cluster and few tests, because starting three Python processes costs more than all the tests.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from anabranch.compute.dask import DaskPool
from anabranch.compute.job import Job, JobResult, JobTimings
from anabranch.compute.pools import make_pool
from anabranch.config.compute import ComputeBackend
from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.document.service import Service
from anabranch.errors import ComputeFailed, ComputePoolDown, ComputePoolFull, ComputeRefused, ComputeTimeout, MissingExtraError, StepError
from anabranch.plan.compile import compile_document
from anabranch.plan.model import PoolPlan
from tests.support.dask_cluster import DaskCluster, until
from tests.support.leaks import no_leaks
from tests.support.ports import free_port
from tests.support.requests import request_of


def job(hook: str, *, within_s: float = 30.0, lane: str = "endpoint.step", **arguments: object) -> Job:
    return Job(
        hook=f"tests.support.hooks:{hook}", input=json.dumps(arguments).encode(), deadline=monotonic() + within_s, step="s", lane=lane
    )


@asynccontextmanager
async def pool_at(address: str, *, workers: int = 8, queue: int = 64) -> AsyncIterator[DaskPool]:
    pool = DaskPool("cluster", address, workers=workers, queue=queue, queue_timeout_s=None)
    await pool.aopen()
    try:
        yield pool
    finally:
        await pool.aclose()


async def run(pool: DaskPool, work: Job) -> JobResult:
    return await pool.run(work, JobTimings())


async def is_up(pool: DaskPool) -> None:
    """Return when the pool accepts a job again."""

    async def ask() -> None:
        while True:
            try:
                await run(pool, job("add", a=1))
            except StepError:
                await asyncio.sleep(0.05)
            else:
                return

    async with asyncio.timeout(60):
        await ask()


async def test_cluster_runs_hooks_by_name_and_keeps_deadlines() -> None:
    async with DaskCluster() as cluster, pool_at(cluster.address, workers=2, queue=1) as pool:
        await is_up(pool)
        assert (await run(pool, job("add", a=40))).value == b"42"
        assert (await run(pool, job("size", value="x" * 3_000_000))).value == b"3000000"
        assert len((await run(pool, job("make", size=3_000_000))).value) == 3_000_002
        with pytest.raises(ComputeFailed):
            await run(pool, job("raises", message="no"))
        with pytest.raises(ComputeRefused) as refused:
            await run(pool, job("unless_free", seats=3, wanted=4))
        assert (refused.value.status, refused.value.public_title, refused.value.fields, refused.value.members) == (
            409, "Sold out", ((b"retry-after", b"60"),), {"seats_left": b"3"},
        )  # fmt: skip
        began = monotonic()
        with pytest.raises(ComputeTimeout):
            await run(pool, job("sleep", within_s=0.3, seconds=2.0))
        assert monotonic() - began < 2.0, "it waited for the function"

        # Cancelled and timed-out jobs release their slots at once.
        tasks = [asyncio.create_task(run(pool, job("sleep", seconds=2.0))) for _ in range(2)]
        await until(lambda: pool.counters.running == 2, what="both places are taken")
        waiting = asyncio.create_task(run(pool, job("add", a=1)))
        await until(lambda: pool.counters.queued == 1, what="one waits")
        with pytest.raises(ComputePoolFull):
            await run(pool, job("add", a=1))
        for task in tasks:
            task.cancel()
        assert (await waiting).value == b"3"
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        counters = pool.counters
        assert (counters.running, counters.queued, counters.cancelled, counters.timed_out, counters.failed) == (0, 0, 2, 1, 1)


async def test_pool_survives_a_killed_worker_and_scheduler_under_load() -> None:
    ends: Counter[str] = Counter()
    longest_s = 0.0
    is_over = False

    async def load(pool: DaskPool, number: int) -> None:
        nonlocal longest_s
        while not is_over:
            began = monotonic()
            try:
                value = (await run(pool, job("add", a=number))).value
                assert value == str(number + 2).encode()
                ends["good"] += 1
            except StepError as error:
                ends[error.code] += 1
                await asyncio.sleep(0.01)
            longest_s = max(longest_s, monotonic() - began)

    async with DaskCluster() as cluster, pool_at(cluster.address) as pool:
        await is_up(pool)
        tasks = [asyncio.create_task(load(pool, number)) for number in range(4)]
        await until(lambda: ends["good"] > 50, what="jobs run")

        await cluster.kill_worker()
        good = ends["good"]
        await until(lambda: ends["good"] > good + 50, what="the other worker goes on")

        await cluster.kill_scheduler()
        await until(lambda: ends["compute_pool_down"] > 20, what="jobs fail at once")
        began = monotonic()
        with pytest.raises(ComputePoolDown) as caught:
            await run(pool, job("add", a=1))
        assert monotonic() - began < 5.0, "it waited for its deadline"
        assert caught.value.status == 503
        assert caught.value.retry_after_s

        await cluster.stop()
        good = ends["good"]
        await cluster.start()
        await until(lambda: ends["good"] > good + 50, what="the pool has found the new cluster")
        is_over = True
        await asyncio.gather(*tasks)
    assert set(ends) <= {"good", "compute_pool_down"}
    assert longest_s < 20.0, "one waited for its deadline"
    assert (pool.counters.running, pool.counters.queued) == (0, 0)


async def test_pool_opens_without_a_cluster_and_connects_when_it_starts() -> None:
    async with pool_at(f"tcp://127.0.0.1:{free_port()}") as pool:
        with pytest.raises(ComputePoolDown, match="cannot be reached"):
            await run(pool, job("add", a=1))
    cluster = DaskCluster(workers=1)
    began = monotonic()
    async with pool_at(cluster.address) as pool:
        assert monotonic() - began < 20.0, "it waits for the cluster"
        try:
            await cluster.start_scheduler()
            await until(lambda: pool._down_reason == "the cluster has no workers", what="it is connected")
            with pytest.raises(ComputePoolDown, match="no workers"):
                await run(pool, job("add", a=1))
            await cluster.start_worker()
            await is_up(pool)
        finally:
            await cluster.stop()


async def test_endpoints_answer_with_defaults_or_503_while_the_cluster_is_unavailable() -> None:
    step = {"compute": "tests.support.hooks:add", "input": {"a": 1}, "executor": "dask"}
    document = {
        "version": 1,
        "compute_backends": {"cluster": {"kind": "dask", "address": f"tcp://127.0.0.1:{free_port()}"}},
        "endpoints": [
            {"path": "/optional", "steps": {"it": {**step, "default": 0}, "sure": {**step, "executor": "thread"}}},
            {"path": "/required", "steps": {"it": {**step, "required": True}}},
        ],
    }
    problems = Problems()
    plan = compile_document(Document.model_validate(document), problems)
    assert not problems.errors
    optional, required = plan.endpoints
    async with no_leaks(), Service(plan) as service:
        result = await service.engine.bind(optional)(request_of(optional, timeout_s=30))
        assert (result.status, result.body, result.is_complete) == (200, b'{"it":0,"sure":3}', False)
        began = monotonic()
        result = await service.engine.bind(required)(request_of(required, timeout_s=30))
        assert monotonic() - began < 15.0, "it waited for its deadline"
        assert result.status == 503
        assert isinstance(result.failure, ComputePoolDown)
        assert result.failure.retry_after_s


async def test_invalid_address_is_an_unavailable_cluster() -> None:
    async with no_leaks(), pool_at("nonsense://nowhere") as pool:
        with pytest.raises(ComputePoolDown, match="cannot be reached"):
            await run(pool, job("add", a=1))


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anabranch.compute.dask", None)
    backend = ComputeBackend.model_validate({"kind": "dask", "address": "tcp://127.0.0.1:1"})
    with pytest.raises(MissingExtraError, match=r"anabranch\[dask\]"):
        make_pool(PoolPlan(name="cluster", backend=backend, hooks=()))
