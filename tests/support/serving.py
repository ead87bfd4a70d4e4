"""Serves an ASGI application on a real loopback socket inside the running loop.

This is uvicorn with the gateway's protocol, as in production, without process supervision: it handles no signals, and it stops on an event
instead of polling every 0.1 s.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from anabranch.server.http1.connection import BoundedProtocol

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 5.0


class LoopServer(uvicorn.Server):
    """A uvicorn server that lives as long as its context."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._up = asyncio.Event()
        self._stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stop.wait()

    async def up(self) -> None:
        await self._up.wait()

    def stop(self) -> None:
        self.should_exit = True
        self._stop.set()


def free_socket() -> socket.socket:
    """A loopback socket bound to a port that the system chose."""
    # With its protocol, as in anabranch.cli.run: asyncio turns Nagle's algorithm off only where it is named.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, 0))
    bound.setblocking(False)
    return bound


@contextlib.asynccontextmanager
async def serve(app: Any, protocol: type[BoundedProtocol] = BoundedProtocol) -> AsyncIterator[int]:
    """Serve `app`, lifespan included, and yield the port. On leaving, the shutdown is awaited. `protocol`: the gateway's own, if it is one.

    Raises RuntimeError when the application does not start. An application that does not stop in time (10 s) fails the test.
    """
    listener = free_socket()
    port: int = listener.getsockname()[1]
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=int(STOP_TIMEOUT_S)
    )
    server = LoopServer(config)
    serving = asyncio.create_task(_serve(server, listener), name="serving")
    starting = asyncio.create_task(server.up(), name="starting")
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


async def _serve(server: LoopServer, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit as stopped:  # raised by uvicorn when the lifespan fails
        raise RuntimeError("the application did not start; its log says why") from stopped
