"""Serves an ASGI application on a loopback socket in the running loop, with the server that `anabranch run` uses. Signals are not handled."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from anabranch.server.config import server_config
from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.server import Server
from anabranch.server.tls import ServerTLS

LOOPBACK: Final = "127.0.0.1"
STOP_TIMEOUT_S: Final = 5.0


class _QuietServer(Server):
    """Installs no signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def free_socket() -> socket.socket:
    """A loopback socket bound to a port that the system chose."""
    # Names IPPROTO_TCP: asyncio turns Nagle's algorithm off only where it is named.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, 0))
    bound.setblocking(False)
    return bound


@contextlib.asynccontextmanager
async def serve(app: Any, protocol: type[BoundedProtocol] = BoundedProtocol, tls: ServerTLS | None = None) -> AsyncIterator[int]:
    """Serve `app`, lifespan included, and yield the port. On leaving, the shutdown is awaited. `protocol`, `tls`: those of a gateway (`Process`).

    Raises RuntimeError when the application does not start. An application that does not stop in time (10 s) fails the test.
    """
    listener = free_socket()
    port: int = listener.getsockname()[1]
    is_up = asyncio.Event()
    config = server_config(app, protocol=protocol, shutdown_timeout_s=STOP_TIMEOUT_S, tls=tls)
    # `is_end` is false: all clients have left, so the server need not wait for handshakes on a shared socket.
    server = _QuietServer(config, on_up=is_up.set, is_end=lambda: False)
    serving = asyncio.create_task(_serve(server, listener), name="serving")
    starting = asyncio.create_task(is_up.wait(), name="starting")
    try:
        await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
            raise RuntimeError("the application ended while it started")
        yield port
    finally:
        starting.cancel()
        server.stop()
        async with asyncio.timeout(2 * STOP_TIMEOUT_S):
            await asyncio.gather(starting, return_exceptions=True)
            await serving
        listener.close()


async def _serve(server: Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit as stopped:  # raised by uvicorn when the lifespan fails
        raise RuntimeError("the application did not start; its log says why") from stopped
