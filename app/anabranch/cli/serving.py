"""Serves in this process: the whole gateway, or one of several workers."""

import logging
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from anabranch.cli.options import ANSWER_IS_NO, BAD_CONFIG
from anabranch.errors import ConfigError
from anabranch.main import Process, assemble
from anabranch.observe.logs import Logs
from anabranch.server import gc_tuning
from anabranch.server.admin.cache import purger
from anabranch.server.admin.reload import outcome_of
from anabranch.server.config import server_config
from anabranch.server.heartbeat import Heartbeat
from anabranch.server.peers import PeerResult, Peers
from anabranch.server.server import Server
from anabranch.settings import Settings

logger = logging.getLogger("anabranch")


def serve_with_others(settings: Settings, number: int, listener: socket.socket, pipe: Connection) -> None:
    """Serve as worker `number`. Ends the process."""
    if settings.admin_port:
        settings = settings.model_copy(update={"admin_port": settings.admin_port + number})
    logs = Logs(settings.log_format, level=settings.log_level, worker=number)
    logs.install()
    heartbeat = Heartbeat(pipe)
    peers = Peers(heartbeat, number)
    try:
        process = assemble(settings, logs, peers)
    except ConfigError as error:
        # The document was usable when the supervisor read it, so it has just changed.
        for problem in error.problems:
            logger.error("cannot start: %s", problem)  # noqa: TRY400 - the problem is the operator's
        sys.exit(BAD_CONFIG)

    async def reload(_: None) -> PeerResult:
        return outcome_of(await process.reloader.reload("admin"))

    def up() -> None:
        peers.listen({"reload": reload, "purge": purger(process.reloader)})
        heartbeat.up()

    def drain() -> None:
        peers.close()
        heartbeat.draining()

    sys.exit(serve(process, settings, listener, on_up=up, on_drain=drain, heartbeat=heartbeat))


def serve(
    process: Process,
    settings: Settings,
    listener: socket.socket,
    *,
    on_up: Callable[[], None],
    on_drain: Callable[[], None] | None = None,
    heartbeat: Heartbeat | None = None,
) -> int:
    """Serve until the process is told to end, or cannot do its work any more. Reloads at SIGHUP, and drains at SIGTERM and SIGINT. Returns the exit
    code. Exits by itself when a part cannot start."""
    code = 0
    reloader = process.reloader
    config = server_config(
        process.app,
        protocol=process.protocol,
        keep_alive_s=settings.keep_alive_s,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        tls=process.tls,
    )

    def up() -> None:
        gc_tuning.freeze()
        reloader.observe(lambda _: gc_tuning.refreeze())
        on_up()

    def drain() -> None:
        process.health.stop()
        if on_drain is not None:
            on_drain()

    def pulse() -> None:
        nonlocal code
        if heartbeat is not None:
            heartbeat.alive()
        if not code and (reason := reloader.service.compute.lost()) is not None:
            logger.error("ending, because %s", reason)
            code = ANSWER_IS_NO
            server.stop()

    server = Server(
        config,
        delay_s=settings.drain_delay_s,
        on_up=up,
        on_drain=drain,
        on_pulse=pulse,
        is_end=None if heartbeat is None else heartbeat.is_end,
        on_hangup=None if settings.reload == "off" else lambda: reloader.request("signal"),
    )
    if heartbeat is not None:
        heartbeat.on_orphaned = server.stop
    server.run(sockets=[listener])
    logger.info("ended with exit code %d", code)
    return code
