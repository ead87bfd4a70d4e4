"""Measures the overhead of a job: `python -m bench.hops` prints the table of docs/compute.md.

Jobs run one after the other, so this is the latency of a single job (median), with the CPU time that it takes in the gateway's process.
"""

from collections.abc import Callable
from statistics import median
from time import monotonic, perf_counter, process_time

import orjson
import uvloop

from anabranch.compute.job import ComputePool, Job, JobTimings
from anabranch.compute.processes.pool import ProcessPool
from anabranch.compute.threads import ThreadPool

HOOK = "bench.hops:length"
SIZES = {0: 2000, 1_000: 2000, 16_000: 1000, 64_000: 500, 256_000: 300, 1_000_000: 100, 10_000_000: 15, 50_000_000: 5}


def length(value: str) -> int:
    """The hook: does next to nothing."""
    return len(value)


async def later(value: str) -> int:
    """The same hook on the event loop."""
    return len(value)


async def measure(pool: ComputePool, hook: str, size: int, times: int) -> tuple[float, float]:
    """Median seconds of a job, and mean CPU seconds of this process."""
    text = orjson.dumps({"value": "x" * size})
    taken = []
    before = process_time()
    for _ in range(times):
        began = perf_counter()
        await pool.run(Job(hook=hook, input=text, deadline=monotonic() + 30, step="hop", lane="hop"), JobTimings())
        taken.append(perf_counter() - began)
    return median(taken), (process_time() - before) / times


async def table() -> None:
    pools: dict[str, tuple[ComputePool, str]] = {
        "async": (ThreadPool("loop", workers=1, queue=1, queue_timeout_s=None, stall_s=60), "bench.hops:later"),
        "thread": (ThreadPool("thread", workers=1, queue=1, queue_timeout_s=None, stall_s=60), HOOK),
        "process": (
            ProcessPool("process", (HOOK,), workers=1, queue=1, queue_timeout_s=None, recycle_after=1_000_000, max_memory_bytes=None), HOOK
        ),
    }  # fmt: skip
    show: Callable[..., None] = print
    show("| argument | " + " | ".join(f"{name} | CPU" for name in pools) + " |\n| --- |" + " ---: | ---: |" * len(pools))
    for pool, _ in pools.values():
        await pool.aopen()
    for size, times in SIZES.items():
        cells = []
        for pool, hook in pools.values():
            await measure(pool, hook, size, 3)
            cells += [f"{seconds * 1e6:,.0f} us" for seconds in await measure(pool, hook, size, times)]
        show(f"| {size:,} bytes | {' | '.join(cells)} |")
    for pool, _ in pools.values():
        await pool.aclose()


if __name__ == "__main__":
    uvloop.run(table())
