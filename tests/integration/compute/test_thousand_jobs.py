"""A thousand jobs of which many hang, kill their worker or raise: every one gets its own result, and all resources are released."""

import asyncio
import os
from collections import Counter
from time import monotonic
from typing import Any

from anabranch.compute.processes.pool import ProcessPool
from tests.integration.compute.processes import children_of, descendants_of, open_files
from tests.support.footprint import MIB, Footprint
from tests.support.jobs import job, outcome_of

JOBS = 1000
HANG_S = 0.2
WORKERS = 4


def kind(number: int) -> str:
    """One in ten hangs, one in twenty kills its worker, one in twenty raises."""
    return {0: "spin", 10: "spin", 5: "crash" if number % 40 == 5 else "leave", 15: "raises"}.get(number % 20, "add")


EXPECTED = {"spin": "compute_timeout", "crash": "compute_worker_lost", "leave": "compute_worker_lost", "raises": "compute_failed"}
ARGUMENTS: dict[str, dict[str, Any]] = {"leave": {"code": 9}, "raises": {"message": "x"}, "spin": {}, "crash": {}}


async def test_a_thousand_jobs_each_get_their_own_answer() -> None:
    files, children = open_files(), children_of(os.getpid())
    pool = ProcessPool("test", ("tests.support.hooks:add",), workers=WORKERS, queue=JOBS, queue_timeout_s=None, recycle_after=100,
                       max_memory_bytes=None)  # fmt: skip
    await pool.aopen()
    wrong: list[tuple[int, object]] = []
    seen: Counter[str] = Counter()
    places = asyncio.Semaphore(WORKERS)
    before = Footprint.now()
    others: list[float] = []

    async def one(number: int) -> None:
        hook = kind(number)
        async with places:
            arguments = ARGUMENTS.get(hook, {"a": number})
            found = await outcome_of(pool, job(hook, timeout_s=HANG_S if hook == "spin" else 60.0, lane="bad", **arguments))
        seen[hook] += 1
        if found != EXPECTED.get(hook, number + 2):
            wrong.append((number, found))

    async def other_endpoint() -> None:
        while True:
            began = monotonic()
            if (found := await outcome_of(pool, job("add", a=1, timeout_s=60.0, lane="good"))) != 3:
                wrong.append((-1, found))
            others.append(monotonic() - began)
            await asyncio.sleep(0.02)

    try:
        beside = asyncio.ensure_future(other_endpoint())
        await asyncio.gather(*(one(number) for number in range(JOBS)))
        beside.cancel()
        assert wrong == []
        assert seen == {"spin": 100, "crash": 25, "leave": 25, "raises": 50, "add": 800}
        assert len(others) > 50
        assert len(descendants_of(os.getpid())) - len(children) <= 1 + 2 * WORKERS
        assert Footprint.now().rss_bytes - before.rss_bytes < 20 * MIB
        assert (pool.counters.timed_out, pool.counters.lost) == (100, 50)
    finally:
        await pool.aclose()
    assert set(children_of(os.getpid())) <= set(children)
    assert open_files() <= files
