"""TLS handshakes in the life of the server: slow ones, failed ones, and those that a drain meets."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from anabranch.server.config import server_config
from anabranch.server.listener import accept_pending
from anabranch.server.server import Server
from anabranch.testing.serving import LOOPBACK, free_socket
from tests.support.command import PATIENCE_S

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert(LOOPBACK)


async def scheme(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        text = scope["scheme"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
        await send({"type": "http.response.body", "body": text})


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(made)
    return made


def trusting() -> ssl.SSLContext:
    made = ssl.create_default_context()
    AUTHORITY.configure_trust(made)
    return made


@dataclass
class Running:
    server: Server
    serving: asyncio.Task[None]
    port: int


@asynccontextmanager
async def running(on_up: Callable[[Server], None] = lambda _: None) -> AsyncIterator[Running]:
    config = server_config(scheme, shutdown_timeout_s=5)
    config.ssl_context_factory = lambda _config, _default: context()
    config.lifespan = "off"
    up = asyncio.Event()

    def is_up() -> None:
        on_up(server)
        up.set()

    server = Server(config, on_up=is_up, is_end=lambda: False)
    listener = free_socket()
    port = listener.getsockname()[1]
    async with asyncio.timeout(PATIENCE_S):
        serving = asyncio.create_task(server.serve([listener]))
        await up.wait()
        yield Running(server, serving, port)
        server.stop()
        await serving


def connected(port: int) -> socket.socket:
    """A connection without a handshake."""
    made = socket.create_connection((LOOPBACK, port))
    made.setblocking(False)
    return made


async def answer(client: socket.socket) -> bytes:
    """The response to a request on this connection, with the handshake before it."""
    reader, writer = await asyncio.open_connection(sock=client, ssl=trusting(), server_hostname=LOOPBACK)
    writer.write(b"GET / HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
    found = await reader.read()
    writer.close()
    return found


async def test_a_client_that_never_begins_its_handshake_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anabranch.server.server.TLS_HANDSHAKE_S", 0.1)
    with caplog.at_level(logging.INFO):
        async with running() as gateway, asyncio.timeout(PATIENCE_S):
            with connected(gateway.port) as client:
                assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
            assert (await answer(connected(gateway.port))).endswith(b"https")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 512])
async def test_what_is_no_handshake_gets_no_answer_and_no_line_in_the_log(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.INFO):
        async with running() as gateway:
            with connected(gateway.port) as client:
                await loop.sock_sendall(client, sent)
                received = b""
                try:
                    while part := await loop.sock_recv(client, 4096):
                        received += part
                except ConnectionResetError:
                    pass
                assert b"HTTP" not in received
            assert (await answer(connected(gateway.port))).endswith(b"https")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_handshake_in_progress_is_completed_and_its_request_served_during_a_drain() -> None:
    async with running() as gateway:
        slow = connected(gateway.port)
        await answer(connected(gateway.port))  # accepted behind the first one
        gateway.server.stop()
        await asyncio.sleep(0.1)
        assert (await answer(slow)).endswith(b"https")
        assert not gateway.serving.done()


async def test_connections_that_the_system_had_accepted_are_served_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[asyncio.Task[bytes]] = []
    silent: list[socket.socket] = []

    def meet(copy: socket.socket) -> list[socket.socket]:
        """Both connect when the event loop listens no more."""
        port = copy.getsockname()[1]
        silent.append(connected(port))
        answers.append(asyncio.create_task(answer(connected(port))))
        return accept_pending(copy)

    monkeypatch.setattr("anabranch.server.server.accept_pending", meet)
    monkeypatch.setattr("anabranch.server.server._LAST_TLS_HANDSHAKE_S", 0.3)
    async with running() as gateway:
        gateway.server.stop()
        await gateway.serving
    assert answers[0].done()
    assert answers[0].result().endswith(b"https")
    silent[0].close()


async def test_an_application_that_does_not_start_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    config = server_config(broken)
    config.ssl_context_factory = lambda _config, _default: context()
    listener = free_socket()
    with listener, caplog.at_level(logging.CRITICAL), pytest.raises(SystemExit, match="3"):
        await Server(config).serve([listener])
