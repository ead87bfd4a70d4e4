"""uvicorn's server with other signal handling and another shutdown: reports when it is up, reloads at SIGHUP, and at SIGTERM or SIGINT
drains so that no client sees a failure.

A drain has these stages:

1. Readiness fails, and every answer says `Connection: close`, so that clients leave by themselves.
2. New connections are still served during the delay, because load balancers have not noticed yet.
3. The server stops listening. Connections that the system had already accepted are served, never reset.
4. Idle connections stay open briefly for a request that is on its way. Running requests get the shutdown timeout.
5. The application shuts down, which closes upstreams and flushes pending writes.

A second signal skips all waiting and cancels running requests. A third does not wait for the application either.

A connection over TLS counts once its handshake is complete. So during a drain the server also waits briefly for handshakes in progress.

**Source:** RFC 9112 section 9.6: a server that wants to close says so in a response, and closes when its client has had time to read that.
"""

import asyncio
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import uvicorn

from anabranch.server.http1.connection import BoundedProtocol
from anabranch.server.listener import accept_pending, block_new_connections
from anabranch.server.workers import STARTUP_FAILED

logger = logging.getLogger("anabranch.server")

LINGER_S: Final = 0.5
"""Seconds for which an idle connection is kept, for a request that its client sent before it could know of the drain."""
_CLOSE: Final = (b"connection", b"close")
_TICK_S: Final = 1.0
_LOOK_S: Final = 0.01
_HANDSHAKE_S: Final = 0.05
"""Seconds for handshakes in progress to complete once new connections are blocked."""
TLS_HANDSHAKE_S: Final = 10.0
"""Seconds that a client gets for its TLS handshake, as for a request's head. The event loop's default is a minute."""
_LAST_TLS_HANDSHAKE_S: Final = 2.0
"""The same for a client that was accepted when the server stopped listening."""
_CANCEL_S: Final = 5.0
"""Seconds for cancelled requests to clean up."""


def _nothing() -> None:
    return None


class Server(uvicorn.Server):
    """`on_up`: called when the server accepts connections. `on_drain`: called when a drain begins. `on_hangup`: called at SIGHUP; None
    leaves that signal alone. `on_pulse`: called every second while the server serves. `is_end`: called before the server stops listening;
    returns whether all processes that share the sockets are ending. None: no other process shares them.

    `delay_s`: how long new connections are still served after the first signal, in seconds. Running requests then get the configuration's
    `timeout_graceful_shutdown`, in seconds. All callbacks run in the event loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        delay_s: float = 0.0,
        on_up: Callable[[], None] = _nothing,
        on_drain: Callable[[], None] = _nothing,
        on_hangup: Callable[[], None] | None = None,
        on_pulse: Callable[[], None] | None = None,
        is_end: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(config)
        self._delay_s = delay_s
        self._timeout_s = config.timeout_graceful_shutdown
        self._on_up = on_up
        self._on_drain = on_drain
        self._on_hangup = on_hangup
        self._on_pulse = on_pulse or _nothing
        self._is_end = is_end
        self._is_draining = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    # ----------------------------------------------------------------------------------------------------------- signals

    def stop(self) -> None:
        """First call: drain. Second call: skip all waiting. Third call: do not wait for the application either."""
        if not self.should_exit:
            self.should_exit = True
            self._stop.set()
        elif not self._hurry.is_set():
            self._hurry.set()
        else:
            self.force_exit = True

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("received %s%s", number.name, ": not waiting any more" if self.should_exit else "")
        self.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals in the event loop while the server runs. Unlike uvicorn, do not raise them again afterwards: the stop was
        requested."""
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            number: partial(self._on_signal, number) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._on_hangup is not None:
            handlers[signal.SIGHUP] = self._on_hangup
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    # --------------------------------------------------------------------------------------------------------- main loop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None or sockets is None:
            await super().startup(sockets)
        else:
            await self._start_tls(sockets, self.config.ssl)
        self._on_up()

    async def _start_tls(self, sockets: list[socket.socket], context: ssl.SSLContext) -> None:
        """As uvicorn does it, with a limit on the duration of handshakes, for which uvicorn has no option."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILED)
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol, sock=sock, ssl=context, ssl_handshake_timeout=TLS_HANDSHAKE_S, backlog=self.config.backlog
            )
            for sock in sockets
        ]
        self.started = True

    async def main_loop(self) -> None:
        await self._tick_until(self._stop, None)

    async def on_tick(self, counter: int) -> bool:
        should_exit = await super().on_tick(counter)
        if self._is_draining:
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return should_exit

    async def _tick_until(self, event: asyncio.Event, limit_s: float | None) -> None:
        """Wait for the event, at most `limit_s` seconds, and keep the Date header current meanwhile."""
        loop = asyncio.get_running_loop()
        until = None if limit_s is None else loop.time() + limit_s
        while not event.is_set() and (until is None or loop.time() < until):
            await self.on_tick(0)
            self._on_pulse()
            next_tick = loop.time() + _TICK_S
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_tick if until is None else min(next_tick, until)):
                    await event.wait()

    # ------------------------------------------------------------------------------------------------------------- drain

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_drain()
        self._is_draining = True
        await self.on_tick(0)
        self._announce_close()
        running = self.server_state
        logger.info(
            "draining: %d connections, %d requests; new ones are served for %g s",
            len(running.connections),
            len(running.tasks),
            self._delay_s,
        )
        await self._tick_until(self._hurry, self._delay_s)
        await self._stop_listening(sockets or [])
        logger.info("stopped listening; %d requests get %g s to end", len(running.tasks), self._timeout_s or 0.0)
        loop = asyncio.get_running_loop()
        until = None if self._timeout_s is None else loop.time() + self._timeout_s
        if self.config.ssl is not None:
            await self._tick_until(self._hurry, LINGER_S if self._timeout_s is None else min(LINGER_S, self._timeout_s))
        await self._wait_for_end(loop.time() + (LINGER_S if self._timeout_s is None else min(LINGER_S, self._timeout_s)))
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait_for_end(until)
        await self._cancel_running()
        if not self.force_exit:
            await self._stop_application()

    def _announce_close(self) -> None:
        """Add `Connection: close` to the answers in flight whose head has not been sent yet."""
        connections: Iterable[object] = self.server_state.connections
        for connection in connections:
            if isinstance(connection, BoundedProtocol):
                connection.announce_close()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Close the listeners, and serve the connections that the system has already accepted: closing alone would reset them.

        A copy of each listener keeps the system accepting while the event loop closes the original. Then, in one step without yielding, the
        pending connections are accepted and the copy is closed. If every process that shares the sockets is ending, new connections are
        blocked first; see `anabranch.server.listener`.
        """
        copies = [listener.dup() for listener in sockets]
        is_end = self._is_end is None or self._is_end()
        is_blocked = is_end and all(block_new_connections(copy) for copy in copies)
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        for _ in range(3):  # uvloop closes its handle in one of the next iterations
            await asyncio.sleep(0)
        if is_blocked:
            await asyncio.sleep(_HANDSHAKE_S)
        pending: list[socket.socket] = []
        for copy in copies:
            copy.setblocking(False)
            pending += accept_pending(copy)
            copy.close()
        await asyncio.gather(*map(self._serve_accepted, pending))

    async def _serve_accepted(self, accepted: socket.socket) -> None:
        context = self.config.ssl
        limit_s = None if context is None else _LAST_TLS_HANDSHAKE_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted, ssl=context, ssl_handshake_timeout=limit_s)
        except OSError:  # the client has gone, or its handshake has failed
            accepted.close()

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _wait_for_end(self, until: float | None) -> None:
        """Return when all connections are closed and all requests have ended, at `until` (loop time), or at the second signal."""
        loop = asyncio.get_running_loop()
        while self.server_state.connections or self.server_state.tasks:
            if self._hurry.is_set() or (until is not None and loop.time() >= until):
                return
            await asyncio.sleep(_LOOK_S)

    async def _cancel_running(self) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()  # otherwise waiting requests would start in the slots of the cancelled ones
        tasks = set(self.server_state.tasks)
        if not tasks:
            return
        logger.error("cancelling %d requests that did not end in time", len(tasks))
        for task in tasks:
            task.cancel(msg="the gateway is stopping")
        await asyncio.wait(tasks, timeout=_CANCEL_S)

    async def _stop_application(self) -> None:
        """End the lifespan and wait for that, unless a third signal comes."""
        stopping = asyncio.ensure_future(self.lifespan.shutdown())
        while not stopping.done() and not self.force_exit:
            await asyncio.wait((stopping,), timeout=0.1)
        if not stopping.done():
            logger.error("third signal: not waiting for the application to stop")
            stopping.cancel()
        await asyncio.wait((stopping,))
