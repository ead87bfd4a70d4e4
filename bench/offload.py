"""Measures the effect of large answers on small requests, with JSON and codings read on and off the loop. `python -m bench.offload`.

Compares three variants: all work on the event loop, all in a thread, and the gateway unchanged. Prints the costs from which the thresholds
of `anabranch.jsontext.order` are derived, then the latency of the plain aggregate while answers of 50 MB arrive.
"""

import argparse
import os
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any, Final

from anabranch.jsontext import merge, raw
from anabranch.jsontext.shape import Shape, compile_reader
from anabranch.upstream.encoding import decode
from bench.pressure import Pressure, aggregate, endpoints, gateway, large_body, service
from bench.server import Cores

_MB: Final = 1_000_000
_PICK: Final = raw.tree(["rows.id", "total"])
_DROP: Final = raw.tree(["rows.nested"])

ON_LOOP: Final = """
import anabranch.compute.offload as offload, anabranch.upstream.connection as connection, anabranch.upstream.wire as wire
from anabranch.upstream.encoding import decode
async def read(self, step, body, frame, deadline): return step.read(body, frame)
async def assemble(self, plan, values, frame, deadline): return plan.response.assemble(values, frame)
async def undo(*given): return decode(*given)
offload.Offload.read, offload.Offload.assemble, wire.decode_soon, connection.LARGE = read, assemble, undo, 1 << 62
"""
IN_THREAD: Final = """
import asyncio, anabranch.compute.offload as offload
async def read(self, step, body, frame, deadline): return await asyncio.to_thread(step.read, body, frame)
async def assemble(self, plan, values, frame, deadline): return await asyncio.to_thread(plan.response.assemble, values, frame)
offload.Offload.read, offload.Offload.assemble = read, assemble
"""
WAYS: Final = {"on the loop": ON_LOOP, "in a thread": IN_THREAD, "as it is": ""}

PATHS: Final = {
    "/splice": "placed under a key",
    "/pick": "one field picked of each row",
    "/deep": "merged by keys with a small one",
    "/gzip": "gzip, placed under a key",
}


def document(url: str) -> dict[str, Any]:
    """The plain aggregate, and one endpoint for each way to process the large answer."""
    large = {"upstream": "service", "path": "/large"}
    small = {"upstream": "service", "path": "/small/0"}
    more = [
        {"path": "/splice", "steps": {"large": large}},
        {"path": "/pick", "steps": {"large": {**large, "pick": ["rows.id"]}}},
        {"path": "/deep", "steps": {"large": large, "small": small}, "response": {"merge": "deep"}},
        {"path": "/gzip", "steps": {"large": {**large, "path": "/large.gz"}}},
    ]
    upstreams = {"service": {"url": url, "max_response": "64MiB", "timeout": "30s"}}
    return {"version": 1, "upstreams": upstreams, "endpoints": endpoints() + [{"timeout": "30s", **one} for one in more]}


def cost_ms(work: Callable[[], object], times: int = 5) -> float:
    """Minimum CPU time of this thread in milliseconds, so that other work on the machine does not count."""
    taken = []
    for _ in range(times):
        began = thread_time()
        work()
        taken.append(thread_time() - began)
    return min(taken) * 1e3


def costs_of(size: int) -> list[float]:
    """Milliseconds of each operation on a body of that size."""
    body = large_body(size)
    packed = zlib.compress(body, 6, wbits=31)
    reads = [compile_reader(Shape(pick=pick, drop=drop), []) for pick, drop in ((None, None), (_PICK, None), (None, _DROP))]
    merges = [merge.flat([(0, "a"), (1, "b")]), merge.deep([(0, "a"), (1, "b")], concat_arrays=True)]
    taken = [cost_ms(partial(read, body, [])) for read in reads]
    taken += [cost_ms(partial(assemble, [body, b"{}"], [])) for assemble in merges]
    return [*taken, cost_ms(lambda: b"".join((b"{", body, b"}"))), cost_ms(lambda: decode(packed, b"gzip", 1 << 30))]


def costs() -> None:
    """Print how long each operation takes, by size. All but the last two hold the GIL meanwhile."""
    print("| body | prove | pick | drop | flat | deep | join | gunzip |\n| --- |" + " ---: |" * 7)
    for size in (_MB // 4, _MB, 4 * _MB, 10 * _MB):
        print(f"| {size / _MB:g} MB | " + " | ".join(f"{taken:.2f} ms" for taken in costs_of(size)) + " |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.offload", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    seconds: float = options.parse_args().seconds
    costs()
    cores = Cores.of(os.sched_getaffinity(0))
    everywhere = frozenset(os.sched_getaffinity(0))
    print("\n| 50 MB answers | reading | p50 ms | p99 ms | p99.9 ms | one answer ms | failed |\n| --- | --- |" + " ---: |" * 5)
    with tempfile.TemporaryDirectory() as folder, service(cores) as url:
        for way, prelude in WAYS.items():
            with gateway(everywhere, document(url), Path(folder), prelude) as (port, pid):
                trial = aggregate(cores, port, pid, seconds)
                print(f"| none | {way} | {trial.p50_ms:.1f} | {trial.p99_ms:.1f} | {trial.p999_ms:.1f} | | |", flush=True)
                for path, what in PATHS.items():
                    with Pressure(port, path, threads=1, pause_s=0.2) as pressure:
                        trial = aggregate(cores, port, pid, seconds)
                    failed = pressure.faults + sum(trial.errors.values())
                    print(
                        f"| {what} | {way} | {trial.p50_ms:.1f} | {trial.p99_ms:.1f} | {trial.p999_ms:.1f} "
                        f"| {median(pressure.taken_s) * 1e3:,.0f} | {failed} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
