"""`anabranch run`: the server process, or the supervisor of several workers."""

import errno
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from anabranch import __version__
from anabranch.cli.options import ANSWER_IS_NO, BAD_CONFIG, exit_with
from anabranch.cli.process import settings_of
from anabranch.document.compile import Compiled, compile_file
from anabranch.document.warnings import warnings_of
from anabranch.errors import ConfigError
from anabranch.main import Process, assemble
from anabranch.observe.logs import Logs
from anabranch.plan.model import DocumentPlan
from anabranch.server import gc_tuning
from anabranch.server.admin.cache import purger
from anabranch.server.admin.reload import outcome_of
from anabranch.server.config import server_config
from anabranch.server.heartbeat import Heartbeat
from anabranch.server.peers import PeerResult, Peers
from anabranch.server.server import Server
from anabranch.server.tls import open_tls
from anabranch.server.workers import Supervisor
from anabranch.settings import Settings, wrong_setting

_STOP_GRACE_S = 30.0
"""Seconds that a worker gets after its drain, to flush and close, before it is killed."""

logger = logging.getLogger("anabranch")


def run(
    document: Annotated[Path | None, typer.Argument(metavar="FILE", help="The gateway document. Default: ANABRANCH_DOCUMENT.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: ANABRANCH_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, 0 for a free one. Default: ANABRANCH_PORT.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Number of worker processes. Default: ANABRANCH_WORKERS.")] = None,
    from_journal: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Answer from this journal, and call no upstream. Default: ANABRANCH_FROM_JOURNAL."),
    ] = None,
) -> None:
    """Run the gateway until SIGINT or SIGTERM."""
    gc_tuning.pause()
    settings = settings_of(document=document, host=host, port=port, workers=workers, from_journal=from_journal)
    logs = Logs(settings.log_format, level=settings.log_level)
    logs.install()
    process: Process | None = None
    try:
        if settings.workers > 1 and settings.document is not None:
            # Workers search the project's folders themselves. Until they have imported the gateway, its own modules come first.
            searched = list(sys.path)
            compiled = compile_file(settings.document)
            _log_warnings(settings, compiled)
            _check_certificates(settings, compiled.plan)
            open_tls(settings)  # each worker opens its own: this reports once what none of them can use
            sys.path[:] = searched
        else:
            process = assemble(settings, logs)
            _check_certificates(settings, process.reloader.service.plan)
    except ConfigError as error:
        exit_with(error.problems)
    listener = _listen(settings.host, settings.port)
    shown_host, shown_port = listener.getsockname()[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    address = f"{scheme}://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{shown_port}"
    announcement = f"anabranch {__version__} serves {settings.document} at {address}" + (
        f"  (docs: {address}/docs)" if settings.docs else ""
    )

    def announce() -> None:
        """Log it whatever the level is."""
        logs.events.info(announcement)

    if process is not None:
        raise typer.Exit(_serve(process, settings, listener, on_up=announce))
    gc_tuning.freeze()
    supervisor = Supervisor(
        partial(_work, settings),
        count=settings.workers,
        listener=listener,
        on_up=announce,
        stop_timeout_s=settings.drain_delay_s + settings.shutdown_timeout_s + _STOP_GRACE_S,
        passes_hangup=settings.reload != "off",
    )
    raise typer.Exit(supervisor.run())


def _log_warnings(settings: Settings, compiled: Compiled) -> None:
    """Log the warnings about the document and the settings once, in the supervisor."""
    for warning in warnings_of(compiled, settings):
        logger.warning("%s", warning)
    if settings.admin_port is None:
        logger.warning("with several workers, /metrics shows only one of them: set ANABRANCH_ADMIN_PORT to give each worker its own port")


def _check_certificates(settings: Settings, plan: DocumentPlan) -> None:
    """Raises ConfigError when clients need certificates that no connection asks for."""
    needing = [name for name, source in plan.auth.items() if source.mtls is not None]
    if needing and settings.tls_client_cert == "none":
        message = f"the authentication `{needing[0]}` needs client certificates, and no connection asks for one"
        raise wrong_setting("TLS_CLIENT_CERT", message, "set it to optional or required, with ANABRANCH_TLS_CLIENT_CA_FILE")


def _work(settings: Settings, number: int, listener: socket.socket, pipe: Connection) -> None:
    """The main function of one of several workers, in a process of its own."""
    gc_tuning.pause()
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

    sys.exit(_serve(process, settings, listener, on_up=up, on_drain=drain, heartbeat=heartbeat))


def _serve(
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


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else is opened, so that a busy port is one clear line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Names IPPROTO_TCP: asyncio turns Nagle's algorithm off only when the socket's protocol is given. It would cost 40 ms a response.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        is_about_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        hint = "choose another with --port" if is_about_port else "--host takes an address of this machine, or 0.0.0.0 for all of them"
        typer.echo(f"cannot listen on {host} port {port}: {error.strerror}; {hint}", err=True)
        raise typer.Exit(BAD_CONFIG) from None
    return listener
