"""Children are started, watched and stopped together, and none outlives its parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from anabranch.testing.serving import LOOPBACK
from demo.service import PORTS
from demo.supervisor import ROOT, StartError, Supervisor
from tests.integration.demo.programs import is_listening, misbehaving, service, until_silent
from tests.support.ports import free_ports


async def test_five_services_start_answer_and_stop() -> None:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    said: list[str] = []
    async with Supervisor([service(name, port) for name, port in ports.items()], say=said.append) as supervisor:
        await supervisor.start()
        assert all(child.is_running for child in supervisor.children.values())
        async with httpx.AsyncClient(timeout=60) as client:
            for name, port in ports.items():
                health = await client.get(f"http://{LOOPBACK}:{port}/health")
                assert health.json()["service"] == name
    assert not any(child.is_running for child in supervisor.children.values())
    assert not any([await is_listening(port) for port in ports.values()])
    assert said == []


async def test_child_that_exits_later_is_reported_in_one_line_and_the_others_continue() -> None:
    airlines, planes = free_ports(2)
    said: asyncio.Queue[str] = asyncio.Queue()
    async with Supervisor([service("airlines", airlines), service("planes", planes)], say=said.put_nowait) as supervisor:
        await supervisor.start()
        os.kill(supervisor.children["airlines"].pid, signal.SIGKILL)
        assert await said.get() == "airlines has ended (signal 9); the others keep running"
        assert await is_listening(planes)
    assert said.empty()


async def test_busy_port_is_named_before_anything_starts() -> None:
    free, busy = free_ports(2)
    with socket.create_server((LOOPBACK, busy)):
        async with Supervisor([service("airlines", free), service("planes", busy)], say=print) as supervisor:
            with pytest.raises(StartError, match=f"^planes: port {busy} is in use. .*: PLANES_PORT=PORT$"):
                await supervisor.start()
            assert supervisor.children == {}


async def test_output_of_a_child_that_exits_before_it_is_ready_is_shown_and_the_others_are_stopped() -> None:
    airlines, port = free_ports(2)
    async with Supervisor([service("airlines", airlines), misbehaving("exits", port)], say=print) as supervisor:
        with pytest.raises(StartError) as failed:
            await supervisor.start()
    assert str(failed.value) == "exits ended before it was ready (exit code 7); it wrote last:\n    the coffee is cold"
    assert not await is_listening(airlines)


async def test_output_of_a_child_that_is_never_ready_is_shown() -> None:
    (port,) = free_ports(1)
    async with Supervisor([misbehaving("hangs", port)], say=print) as supervisor:
        with pytest.raises(StartError) as failed:
            await supervisor.start(ready_timeout_s=5)
    assert str(failed.value) == "hangs: not ready after 5 s\n  hangs wrote last:\n    thinking"


async def test_child_that_ignores_sigterm_is_killed() -> None:
    (port,) = free_ports(1)
    async with Supervisor([misbehaving("ignores", port)], say=print, stop_timeout_s=0.5) as supervisor:
        await supervisor.start()
    assert supervisor.children["ignores"].process.returncode == -signal.SIGKILL


async def test_no_child_outlives_a_killed_parent() -> None:
    ports = free_ports(2)
    command = (sys.executable, "-m", "tests.integration.demo.keeper", *map(str, ports))
    keeper = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert keeper.stdout is not None
        async with asyncio.timeout(60):
            assert await keeper.stdout.readline() == b"ready\n"
    finally:
        keeper.kill()
        await keeper.wait()
    for port in ports:
        await until_silent(port)
