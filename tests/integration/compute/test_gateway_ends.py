"""However the gateway ends, none of its worker processes outlives it."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.compute.processes import descendants_of, is_alive, until_gone
from tests.support.paths import ROOT

DOCUMENT = """
version: 1
compute_backends: {own: {kind: process, workers: 2}}
endpoints:
  - {path: /add, timeout: 60s, steps: {it: {compute: "tests.support.hooks:add", input: {a: 1}, pool: own}}}
  - {path: /spin, timeout: 60s, steps: {it: {compute: "tests.support.hooks:spin", pool: own}}}
  - {path: /child, timeout: 60s, steps: {it: {compute: "tests.support.hooks:leave_a_child", pool: own}}}
"""


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Process, str]]:
    """A gateway in its own process, with the processes that it has started."""
    document = folder / "gateway.yaml"
    document.write_text(DOCUMENT)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "anabranch", "run", str(document), "--port", "0", cwd=ROOT, stderr=PIPE, start_new_session=True,
        env={**os.environ, "ANABRANCH_SHUTDOWN_TIMEOUT_S": "1", "ANABRANCH_LOG_FORMAT": "console"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        lines: list[str] = []
        async with asyncio.timeout(60):
            while (found := re.search(r"http://[^/\s]+:\d+", lines[-1] if lines else "")) is None:
                line = await process.stderr.readline()
                assert line, "".join(lines)
                lines.append(line.decode())
        yield process, found[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_worker_outlives_the_gateway(tmp_path: Path, number: signal.Signals) -> None:
    async with gateway(tmp_path) as (process, url), httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.get("/add")).json() == {"it": 3}
        child = (await client.get("/child")).json()["it"]
        busy = asyncio.ensure_future(client.get("/spin"))
        await asyncio.sleep(0.2)
        started = [*descendants_of(process.pid), child]
        assert len(started) >= 4
        process.send_signal(number)
        await process.wait()
        await until_gone(started)
        busy.cancel()
        await asyncio.wait([busy])
    assert not any(is_alive(pid) for pid in started)
