"""Draining under load: a client that respects `Connection: close` gets a response to every request until its connections are refused."""

import asyncio
import contextlib
import errno
import re
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import uvicorn

from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.listener import accept_pending
from anabranch.server.server import Server
from tests.support.command import PATIENCE_S, Tally, ask_until_refused, running_command
from tests.support.scripted import ScriptedUpstream
from tests.support.serving import LOOPBACK, free_socket, serve
from tests.support.stamped import DOCUMENT, service

SLOW = """\
version: 1
defaults: {{timeout: 1m}}
upstreams: {{a: {{url: "{url}", timeout: 1m}}}}
endpoints: [{{path: /a, steps: {{s: {{upstream: a, path: /}}}}}}]
"""

WAITS = re.compile(r"^anabranch_gate_queued\S* 1(\.0)?$", re.MULTILINE)


def written(folder: Path, port: int) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(DOCUMENT.format(port=port, stamp=0).replace('routers: ["tests.support.stamped:router"]\n', ""), "utf-8")
    return path


@pytest.mark.parametrize("delay_s", ["0", "0.7"])
async def test_no_request_fails_when_the_gateway_stops_under_load(tmp_path: Path, delay_s: str) -> None:
    tally = Tally()
    async with serve(service) as upstream:
        document = written(tmp_path, upstream)
        async with running_command(document, ANABRANCH_DRAIN_DELAY_S=delay_s) as command, asyncio.TaskGroup() as group:
            for number in range(32):
                group.create_task(ask_until_refused(command.port, "/document", tally, is_kept_alive=number % 4 != 0))
            async with asyncio.timeout(PATIENCE_S):
                while tally.answered < 300:
                    await asyncio.sleep(0.01)
            command.process.send_signal(signal.SIGTERM)
            assert await command.ended() == 0
    assert tally.failures == []
    assert tally.refused == 32


async def test_not_ready_at_once_and_still_serving_for_the_delay(tmp_path: Path) -> None:
    async with serve(service) as upstream:
        document = written(tmp_path, upstream)
        async with (
            running_command(document, ANABRANCH_DRAIN_DELAY_S="30") as command,
            httpx.AsyncClient(base_url=command.url, timeout=60) as client,
        ):
            assert (await client.get("/readyz")).status_code == 200
            command.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                while (ready := await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert ready.json()["reasons"] == ["the gateway is stopping"]
            assert (await client.get("/livez")).status_code == 200
            answer = await client.get("/document")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            command.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                assert await command.ended() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_cancels_running_requests(tmp_path: Path, second: signal.Signals) -> None:
    async with ScriptedUpstream({"*": {"hang": True}}) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(SLOW.format(url=upstream.url), "utf-8")
        async with (
            running_command(path, ANABRANCH_SHUTDOWN_TIMEOUT_S="60") as command,
            httpx.AsyncClient(base_url=command.url, timeout=60) as client,
        ):
            asked = asyncio.ensure_future(client.get("/a", timeout=60))
            await upstream.until(lambda it: it.concurrent == 1)
            command.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                while not await refused(command.port):
                    await asyncio.sleep(0.01)
            assert command.process.returncode is None
            command.process.send_signal(second)
            async with asyncio.timeout(PATIENCE_S):
                assert await command.ended() == 0
            await asyncio.gather(asked, return_exceptions=True)


async def test_second_signal_rejects_requests_that_wait_for_a_slot(tmp_path: Path) -> None:
    """Otherwise the waiting request would start when the second signal cancels the request that holds the slot."""
    async with ScriptedUpstream({"*": {"hang": True}}) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(SLOW.format(url=upstream.url), "utf-8")
        limits = {"ANABRANCH_MAX_REQUESTS": "1", "ANABRANCH_MAX_WAIT_S": "60"}
        async with (
            running_command(path, ANABRANCH_SHUTDOWN_TIMEOUT_S="60", **limits) as command,
            httpx.AsyncClient(base_url=command.url, timeout=60) as client,
        ):
            running = asyncio.ensure_future(client.get("/a"))
            await upstream.until(lambda it: it.concurrent == 1)
            waiting = asyncio.ensure_future(client.get("/a"))
            async with asyncio.timeout(PATIENCE_S):
                while not WAITS.search((await client.get("/metrics")).text):
                    await asyncio.sleep(0.01)
            command.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                while not await refused(command.port):
                    await asyncio.sleep(0.01)
            command.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                answer = await waiting
                assert (answer.status_code, answer.headers["connection"]) == (503, "close")
                assert await command.ended() == 0
            await asyncio.gather(running, return_exceptions=True)


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_hangup_reloads_the_document(tmp_path: Path) -> None:
    async with serve(service) as upstream:
        document = written(tmp_path, upstream)
        async with (
            running_command(document, ANABRANCH_RELOAD="signal") as command,
            httpx.AsyncClient(base_url=command.url, timeout=60) as client,
        ):
            document.write_text(re.sub('"0"', '"1"', document.read_text("utf-8")), "utf-8")
            command.process.send_signal(signal.SIGHUP)
            await command.says("reloaded the document (signal)")
            assert (await client.get("/document")).headers["x-stamp"] == "1"
            document.write_text("version: 2", "utf-8")
            command.process.send_signal(signal.SIGHUP)
            await command.says("the old one stays in force")
            assert (await client.get("/document")).headers["x-stamp"] == "1"
            command.process.send_signal(signal.SIGTERM)
            assert await command.ended() == 0


def late_client(address: tuple[str, int]) -> socket.socket:
    """A client whose connection only the kernel has accepted, with its request sent."""
    client = socket.create_connection(address)
    client.sendall(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
    client.setblocking(False)
    return client


class LateClients(Server):
    """A server whose late clients are accepted only by the kernel: they connect just before it blocks new connections or, if it must not
    block them because other processes still serve, right after its loop has released the listener."""

    late: tuple[socket.socket, ...] = ()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        address = sockets[0].getsockname()
        close = self.servers[0].close

        def close_late() -> None:
            close()
            self.late = tuple(late_client(address) for _ in range(5))

        if self._is_end is None:
            self.late = tuple(late_client(address) for _ in range(5))
        else:
            self.servers[0].close = close_late  # type: ignore[method-assign]
        await super()._stop_listening(sockets)


@pytest.mark.parametrize("is_end", [None, lambda: False], ids=["the end", "others go on"])
async def test_connection_in_the_kernel_backlog_is_served_not_reset(is_end: Callable[[], bool] | None) -> None:
    config = uvicorn.Config(service, http=BoundedProtocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=5)
    server = LateClients(config, on_up=lambda: server.stop(), is_end=is_end)  # noqa: PLW0108 - there is no server yet
    async with asyncio.timeout(30):
        serving = asyncio.create_task(server.serve([free_socket()]))
        loop = asyncio.get_running_loop()
        while not server.late:
            await asyncio.sleep(0)
        answers = [await loop.sock_recv(client, 4096) for client in server.late]
        await serving
    for client in server.late:
        client.close()
    assert all(answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer for answer in answers)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a listener be deaf")
async def test_connection_attempted_just_before_the_close_is_refused_not_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = free_socket()
    address = listener.getsockname()
    newcomer = socket.socket()
    newcomer.setblocking(False)

    def take_and_meet(copy: socket.socket) -> list[socket.socket]:
        taken = accept_pending(copy)
        newcomer.connect_ex(address)
        return taken

    monkeypatch.setattr("anabranch.server.server.accept_pending", take_and_meet)
    config = uvicorn.Config(service, http=BoundedProtocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=5)
    server = Server(config, on_up=lambda: server.stop())  # noqa: PLW0108 - there is no server yet
    with newcomer:
        async with asyncio.timeout(30):
            await server.serve([listener])
            # The kernel of the client retries after a second, then after two, four, ...
            await asyncio.to_thread(select.select, [], [newcomer], [], 30)
        assert newcomer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


async def test_idle_connection_is_closed_after_a_moment_and_does_not_delay_the_drain() -> None:
    up = asyncio.Event()
    config = uvicorn.Config(service, http=BoundedProtocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=5)
    server = Server(config, on_up=up.set)
    listener = free_socket()
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(PATIENCE_S):
        await up.wait()
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
        server.stop()
        await serving
        assert (await reader.read()).endswith(b"}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
