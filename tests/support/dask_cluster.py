"""A real dask cluster on loopback: a scheduler and workers, each in its own process, that can be killed and restarted."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from time import monotonic
from typing import Self

from tests.support.paths import PYTHONPATH, ROOT
from tests.support.ports import free_port

_READY_WITHIN_S = 60.0


class DaskCluster:
    """An async context manager. `workers`: initial number, one thread each. On leaving, all its processes are killed."""

    def __init__(self, workers: int = 2) -> None:
        self.port = free_port()
        self.scheduler: Process | None = None
        self.workers: list[Process] = []
        self._count = workers

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start scheduler and workers together: a worker retries until its scheduler listens."""
        await self.start_scheduler()
        for _ in range(self._count):
            await self.start_worker()

    async def start_scheduler(self) -> None:
        self.scheduler = await _program("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    async def start_worker(self) -> None:
        self.workers.append(
            await _program("dask_worker", self.address, "--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", "1")
        )

    async def kill_worker(self) -> None:
        worker = self.workers.pop(0)
        worker.kill()
        await worker.wait()

    async def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        await self.scheduler.wait()
        self.scheduler = None

    async def stop(self) -> None:
        """Kill all processes."""
        programs = [*self.workers, *([self.scheduler] if self.scheduler is not None else [])]
        self.workers, self.scheduler = [], None
        for program in programs:
            if program.returncode is None:
                program.kill()
        for program in programs:
            await program.wait()


async def _program(name: str, *arguments: str) -> Process:
    environ = {**os.environ, "PYTHONPATH": PYTHONPATH, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{_READY_WITHIN_S:.0f}s"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"distributed.cli.{name}", *arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, env=environ, cwd=ROOT
    )


async def until(is_so: object, *, within_s: float = _READY_WITHIN_S, what: str) -> None:
    """Return when `is_so()` is true."""
    assert callable(is_so)
    give_up = monotonic() + within_s
    while not is_so():
        assert monotonic() < give_up, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)
