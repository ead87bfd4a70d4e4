"""A second uvicorn server in the same loop, for the admin surface. Lives as long as the gateway: it answers until the drain is over."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from anabranch.server.head import BoundedProtocol


class AdminServer:
    """An async context manager: listens from its start to its end. `port`: where, once it is open.

    `protocol`: how requests are read. Raises OSError with a sentence for the operator when it cannot listen. Its end gives requests under
    way one second.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, protocol: type[BoundedProtocol] = BoundedProtocol) -> None:
        self.port = port
        self._host = host
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # With its protocol: asyncio turns Nagle's algorithm off only where it is named.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self.port))
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"the admin server cannot listen on {self._host} port {self.port}: {error.strerror}") from None
        self.port = listener.getsockname()[1]
        # The server begins in its task; from here on a connection waits for it instead of being refused.
        listener.listen()
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]), name="anabranch-admin")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._serving is not None
        self._server.stop()
        await self._serving


class _QuietServer(uvicorn.Server):
    """Leaves the signals to the gateway's own server, and stops when it is told to instead of asking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._told.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
