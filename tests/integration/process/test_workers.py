"""Several workers on one port: they share the load, are replaced when they die, and reload and stop together."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from anabranch.testing.serving import serve
from tests.support.command import PATIENCE_S, Command, Tally, ask_until_refused, running_command
from tests.support.paths import ROOT
from tests.support.stamped import DOCUMENT, service


@asynccontextmanager
async def two_workers(folder: Path, **variables: str) -> AsyncIterator[tuple[Command, Path, int]]:
    async with serve(service) as upstream:
        path = folder / "gateway.yaml"
        path.write_text(document(upstream, 0), "utf-8")
        async with running_command(path, "--workers", "2", ANABRANCH_RELOAD="signal", **variables) as command:
            yield command, path, upstream


def document(upstream: int, stamp: int) -> str:
    return DOCUMENT.format(port=upstream, stamp=stamp).replace('routers: ["tests.support.stamped:router"]\n', "")


def workers_of(pid: int) -> set[int]:
    """The worker processes of the supervisor, without multiprocessing's resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()}


async def stamps(command: Command, requests: int = 24) -> set[str]:
    """The stamps in answers to requests on separate connections; each may reach another worker."""
    found = set()
    for _ in range(requests):
        async with httpx.AsyncClient(base_url=command.url, timeout=60) as client:
            answer = await client.get("/document")
            assert answer.status_code == 200, answer.text
            found.add(answer.headers["x-stamp"])
    return found


async def test_two_workers_serve_reload_survive_a_death_and_drain(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as (command, path, upstream):
        first = workers_of(command.pid)
        assert len(first) == 2
        assert await stamps(command) == {"0"}

        path.write_text(document(upstream, 1), "utf-8")
        command.process.send_signal(signal.SIGHUP)
        await command.says("reloaded the document (signal)", count=2)
        assert await stamps(command) == {"1"}
        assert workers_of(command.pid) == first

        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        await command.says("exited with code -9")
        async with asyncio.timeout(PATIENCE_S):
            while len(workers_of(command.pid) - {victim}) < 2:
                await asyncio.sleep(0.02)
        assert await stamps(command) == {"1"}

        tally = Tally()
        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(ask_until_refused(command.port, "/document", tally, is_kept_alive=number % 4 != 0))
            async with asyncio.timeout(PATIENCE_S):
                while tally.answered < 200:
                    await asyncio.sleep(0.01)
            command.process.send_signal(signal.SIGTERM)
            assert await command.ended() == 0
        assert tally.failures == []
        assert tally.refused == 16


async def test_worker_that_exits_alone_keeps_the_socket_open_and_interrupt_stops_all_cleanly(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as (command, _, _):
        os.kill(min(workers_of(command.pid)), signal.SIGTERM)
        await command.says("exited with code 0")
        assert await stamps(command) == {"0"}
        os.kill(command.pid, signal.SIGINT)
        assert await command.ended() == 0


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as (command, _, _):
        workers = workers_of(command.pid)
        command.process.kill()
        await command.ended()
        async with asyncio.timeout(PATIENCE_S):
            while any(is_alive(worker) for worker in workers):
                await asyncio.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.support.hanging", str(lives), cwd=ROOT, stderr=PIPE)
    async with asyncio.timeout(60):
        while not lives.exists() or len(lives.read_text("utf-8").splitlines()) < 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(3)  # longer than the supervisor's patience: the second run is healthy
        process.terminate()
        _, said = await process.communicate()
    assert process.returncode == 0
    assert lives.read_text("utf-8").splitlines() == ["life of 0"] * 2
    assert b"no heartbeat" in said


async def test_unusable_document_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 2\n", "utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "anabranch", "run", str(path), "--port", "0", "--workers", "2", cwd=ROOT, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    assert process.returncode == 3
    assert said.decode().count("version") == 1
