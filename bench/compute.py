"""Measures the effect of a busy function on other requests, and the cost of a job on a cluster. `python -m bench.compute`.

The plain aggregate is requested at a steady rate: first alone, then while a CPU-bound function keeps every worker of a pool busy.
`python -m bench.hops` measures the cost of a job on threads and in processes.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Any, Final

import orjson
import uvloop

from anabranch.compute.dask import DaskPool
from anabranch.compute.job import Job, JobTimings
from anabranch.errors import StepError
from bench.pressure import Pressure, aggregate, endpoints, gateway, service
from bench.server import Cores, free_port, process

KINDS: Final = ("process", "thread")
_SPIN_S: Final = 0.25
_CALLERS: Final = 3
_READY_WITHIN_S: Final = 30.0


def spin(seconds: float) -> int:
    """The hook: runs plain Python for this long."""
    rounds = 0
    until = perf_counter() + seconds
    while perf_counter() < until:
        rounds += sum(range(100)) > 0
    return rounds


def document(url: str) -> dict[str, Any]:
    """The plain aggregate, and a heavy endpoint for each kind of pool. A pool has one worker, so that one core is left for other work."""
    heavy = [
        {
            "path": f"/{kind}",
            "timeout": "30s",
            "steps": {"it": {"compute": "bench.compute:spin", "input": {"seconds": _SPIN_S}, "pool": kind}},
        }
        for kind in KINDS
    ]
    return {
        "version": 1,
        "upstreams": {"service": {"url": url}},
        "compute_backends": {kind: {"kind": kind, "workers": 1} for kind in KINDS},
        "endpoints": endpoints() + heavy,
    }


def isolation(seconds: float) -> None:
    """Measure the aggregate alone and beside each kind of pool, saturated."""
    everywhere = frozenset(os.sched_getaffinity(0))
    cores = Cores(server=everywhere, load=everywhere)
    print("| busy with a function | p50 ms | p99 ms | p99, times idle | jobs/s | failed |\n| --- |" + " ---: |" * 5)
    with tempfile.TemporaryDirectory() as folder, service(cores) as url, gateway(everywhere, document(url), Path(folder)) as (port, pid):
        idle = aggregate(cores, port, pid, seconds)
        print(f"| nothing | {idle.p50_ms:.2f} | {idle.p99_ms:.2f} | 1.0 | | {sum(idle.errors.values())} |", flush=True)
        for kind in KINDS:
            with Pressure(port, f"/{kind}", threads=_CALLERS) as pressure:
                trial = aggregate(cores, port, pid, seconds)
            failed = pressure.faults + sum(trial.errors.values())
            times = trial.p99_ms / idle.p99_ms
            jobs = len(pressure.taken_s) / (seconds + 1)
            print(f"| `{kind}` | {trial.p50_ms:.2f} | {trial.p99_ms:.2f} | {times:.1f} | {jobs:.1f} | {failed} |", flush=True)


@contextmanager
def cluster(cores: Cores) -> Iterator[str]:
    """Start a scheduler with one worker; yields its address."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m"]
    scheduler = [*command, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [*command, "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", "1"]
    with (
        Path(os.devnull).open("wb") as nowhere,
        process(scheduler, cores=cores.load, stdout=nowhere, stderr=nowhere),
        process(worker, cores=cores.load, stdout=nowhere, stderr=nowhere),
    ):
        yield address


async def hops(address: str) -> None:
    """Run a trivial function on the cluster, one job after the other."""
    pool = DaskPool("cluster", address, workers=1, queue=1, queue_timeout_s=None)
    await pool.aopen()

    async def one(size: int) -> None:
        text = orjson.dumps({"value": "x" * size})
        await pool.run(Job(hook="bench.hops:length", input=text, deadline=monotonic() + 30, step="hop", lane="hop"), JobTimings())

    try:
        give_up = monotonic() + _READY_WITHIN_S
        while True:
            try:
                await one(0)
                break
            except StepError:
                if monotonic() > give_up:
                    raise
                await asyncio.sleep(0.1)
        print("\n| argument | dask | CPU of the gateway |\n| --- | ---: | ---: |")
        for size, times in {0: 200, 1_000: 200, 1_000_000: 50, 10_000_000: 10}.items():
            taken = []
            before = process_time()
            for _ in range(times):
                began = perf_counter()
                await one(size)
                taken.append(perf_counter() - began)
            cpu_us = (process_time() - before) / times * 1e6
            print(f"| {size:,} bytes | {median(taken) * 1e3:.1f} ms | {cpu_us:,.0f} us |", flush=True)
    finally:
        await pool.aclose()


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.compute", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    isolation(options.parse_args().seconds)
    everywhere = frozenset(os.sched_getaffinity(0))
    with cluster(Cores(server=everywhere, load=everywhere)) as address:
        uvloop.run(hops(address))


if __name__ == "__main__":
    main()
