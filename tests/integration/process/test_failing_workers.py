"""Workers that cannot start, or that die again and again: the process ends with a reason, and never with 0."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from anabranch.testing.serving import LOOPBACK
from tests.support.paths import ROOT

DOCUMENT = """
version: 1
endpoints:
  - path: /double/{number}
    parameters: {number: {in: path, schema: {type: integer}}}
    steps: {s: {compute: "hooks_of_project:double", input: {number: "{path.number}"}, executor: process, timeout: 30s}}
    timeout: 30s
"""
HOOKS = "def double(number: int) -> int:\n    return 2 * number\n"


async def supervise(folder: Path, count: int, *lives: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.failing", str(folder), str(count), *lives),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("life", "reason"),
    [
        ("exit:3", "worker 1 could not start: exit code 3"),
        ("exit:1", "worker 1 could not start: exit code 1"),
        ("exit:0", "worker 1 could not start: exit code 0"),
        ("signal:9", "worker 1 could not start: signal 9"),
        ("raise", "worker 1 could not start: exit code 1"),
    ],
)
async def test_worker_that_cannot_start_ends_the_start(tmp_path: Path, life: str, reason: str) -> None:
    code, said = await supervise(tmp_path, 2, life)
    assert code == 3
    assert reason in said
    assert len(list(tmp_path.glob("1-*"))) == 1


@pytest.mark.parametrize("life", ["up:exit:1", "up:signal:11", "up:exit:0", "up:raise"])
async def test_worker_that_dies_again_and_again_ends_the_process(tmp_path: Path, life: str) -> None:
    code, said = await supervise(tmp_path, 2, life)
    assert code == 1
    assert "worker 1 ended 5 times within 60 s" in said
    assert len(list(tmp_path.glob("1-*"))) == 5


async def test_successors_that_cannot_be_started_at_all_end_the_process(tmp_path: Path) -> None:
    code, said = await supervise(tmp_path, 2, "up:exit:1", "exit:1")
    assert code == 1
    assert "worker 1 ended 5 times" in said


async def test_unusable_document_does_not_end_workers_that_serve(tmp_path: Path) -> None:
    """The document may be under repair: the successor is tried again, and it starts in its eighth life."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.failing", str(tmp_path), "2", "up:exit:1", *["exit:3"] * 6, "serve"),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        while not (tmp_path / "1-7").exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        process.terminate()
        assert await process.wait() == 0


async def test_unusable_document_ends_the_process_when_nobody_serves(tmp_path: Path) -> None:
    code, said = await supervise(tmp_path, 1, "up:exit:1", "exit:3")
    assert code == 3
    assert "no other serves" in said


async def test_signal_after_a_failure_does_not_make_it_a_success(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.failing", str(tmp_path), "2", "up:exit:1", "exit:3"), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        while not (tmp_path / "1-3").exists():
            await asyncio.sleep(0.02)
        process.terminate()
        assert await process.wait() == 1


async def run_until_it_ends(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "anabranch", "run", "gateway.yaml", "--port", "0", *arguments),
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT / "app"), **variables},
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("workers", [1, 2])
async def test_admin_port_that_is_taken_is_one_sentence(tmp_path: Path, workers: int) -> None:
    (tmp_path / "gateway.yaml").write_text("version: 1\n", "utf-8")
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        code, said = await run_until_it_ends(tmp_path, "--workers", str(workers), ANABRANCH_ADMIN_PORT=str(port))
    assert code == 3
    assert f"the admin server cannot listen on 127.0.0.1 port {port}: Address already in use" in said
    assert "Traceback" not in said


async def test_files_of_the_project_that_are_called_like_those_of_python_stop_no_worker(tmp_path: Path) -> None:
    """The gateway's own imports in a new process come from where the gateway's come, not from the project."""
    (tmp_path / "gateway.yaml").write_text(DOCUMENT, "utf-8")
    (tmp_path / "hooks_of_project.py").write_text(HOOKS, "utf-8")
    for name in ("select", "ctypes", "orjson", "contextlib", "resource"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')\n", "utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH_")}
    # -P: as the installed command, which does not search the working directory by itself.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "anabranch", "run", "gateway.yaml", "--port", "0", "--workers", "2"),
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT / "app")},
        stderr=subprocess.PIPE,
    )
    said = b""
    async with asyncio.timeout(60):
        assert process.stderr is not None
        while b" serves " not in said and (line := await process.stderr.readline()):
            said += line
        assert b" serves " in said, said
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0
