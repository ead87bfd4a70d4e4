"""A second uvicorn server in the same event loop, for the admin application. It answers until the gateway's drain is over."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from anabranch.core.tasks import start_protected
from anabranch.errors import StartError
from anabranch.server.http1.connection import BoundedProtocol

logger = logging.getLogger("anabranch")


class AdminServer:
    """An async context manager that listens while it is open. `port`: the actual port, once it is open.

    `protocol`: the HTTP protocol class. Raises StartError when it cannot listen. Closing gives requests in
    flight one second.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, protocol: type[BoundedProtocol] = BoundedProtocol) -> None:
        self.port = port
        self._host = host
        self._config = uvicorn.Config(
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
        self._server: _QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Names IPPROTO_TCP: asyncio turns Nagle's algorithm off only when the socket's protocol is given.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self.port))
        except OSError as error:
            listener.close()
            raise StartError(
                f"the admin server cannot listen on {self._host} port {self.port}: {error.strerror}; set ANABRANCH_ADMIN_PORT to a free port"
            ) from None
        self.port = listener.getsockname()[1]
        # The server starts in its task. From here on a connection waits for it instead of being refused.
        listener.listen()
        self._server = _QuietServer(self._config)
        logger.info("the admin server listens on %s port %d", self._host, self.port)
        self._serving = start_protected(self._server.serve(sockets=[listener]), name="anabranch-admin")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.stop()
        await self._serving


class _QuietServer(uvicorn.Server):
    """Leaves signals to the gateway's own server. Wakes once a second, for the Date of its responses, instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop_requested = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stop_requested.set()

    async def main_loop(self) -> None:
        while not self._stop_requested.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stop_requested.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
