"""A document whose compute steps cannot run: the start and the reload fail, readiness knows, and the process ends when it lasts."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

import pytest

from anabranch.compute.offload import Offload
from anabranch.compute.pools import ComputePools
from anabranch.compute.processes import pool as process_pool
from anabranch.document.compile import compile_file
from anabranch.errors import StartError
from anabranch.plan.model import PoolPlan

DOCUMENT = """
version: 1
endpoints:
  - path: /a
    steps: {s: {compute: "tests.support.hooks:add", input: {a: 1}, executor: process}}
"""


@pytest.fixture
def plans(tmp_path: Path) -> Mapping[str, PoolPlan]:
    (tmp_path / "gateway.yaml").write_text(DOCUMENT, "utf-8")
    return compile_file(tmp_path / "gateway.yaml").plan.pools


async def test_pool_whose_processes_cannot_start_fails_the_start(plans: Mapping[str, PoolPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StartError, match="no process of the compute pool process can be started"):
        async with ComputePools(plans):
            raise AssertionError("it has begun")


async def test_pool_that_goes_down_is_known_and_given_up_after_a_minute(
    plans: Mapping[str, PoolPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ComputePools(plans) as pools:
        (pool,) = pools.pools.values()
        assert isinstance(pool, process_pool.ProcessPool)
        assert (pools.trouble(), pools.lost()) == (None, None)
        monkeypatch.setattr("sys.executable", "/bin/false")
        assert pool._fork_client is not None
        assert pool._fork_client._process is not None
        pool._fork_client._process.kill()
        async with asyncio.timeout(30):
            while pools.trouble() is None:
                await asyncio.sleep(0.01)
        assert pools.lost() is None
        monkeypatch.setattr(process_pool, "monotonic", lambda: monotonic() + 61)
        assert "could be started for" in (pools.lost() or "")
        monkeypatch.undo()
        async with asyncio.timeout(30):
            while pools.trouble() is not None:
                await asyncio.sleep(0.01)


async def test_large_answers_that_are_read_on_the_loop_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Offload() as offload:
        assert list(offload.notes()) == []
        monkeypatch.setattr("sys.executable", "/bin/false")
        await offload._opened()
        assert ["read on the event loop" in note for note in offload.notes()] == [True]
