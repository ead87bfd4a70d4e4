"""`anabranch run`: the server process, or the supervisor of several workers."""

import errno
import logging
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from anabranch import __version__
from anabranch.cli.options import BAD_CONFIG, exit_with
from anabranch.cli.process import settings_of
from anabranch.cli.worker import work
from anabranch.document.compile import Compiled, compile_file
from anabranch.document.warnings import warnings_of
from anabranch.errors import ConfigError
from anabranch.observe.logs import Logs
from anabranch.plan.model import DocumentPlan
from anabranch.server import gc_tuning
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
    if settings.workers > 1 and settings.document is not None:
        raise typer.Exit(_supervise(settings, settings.document, logs))
    # A supervisor needs none of this.
    from anabranch.cli.serving import serve  # noqa: PLC0415
    from anabranch.main import assemble  # noqa: PLC0415

    try:
        process = assemble(settings, logs)
        _check_certificates(settings, process.reloader.service.plan)
    except ConfigError as error:
        exit_with(error.problems)
    listener = _listen(settings.host, settings.port)
    raise typer.Exit(serve(process, settings, listener, on_up=partial(_announce, settings, listener, logs)))


def _supervise(settings: Settings, document: Path, logs: Logs) -> int:
    """Run several workers. Returns the exit code."""
    # Workers search the project's folders themselves. Until they have imported the gateway, its own modules come first.
    searched = list(sys.path)
    try:
        compiled = compile_file(document)
        _log_warnings(settings, compiled)
        _check_certificates(settings, compiled.plan)
        open_tls(settings)  # each worker opens its own: this reports once what none of them can use
    except ConfigError as error:
        exit_with(error.problems)
    sys.path[:] = searched
    listener = _listen(settings.host, settings.port)
    gc_tuning.freeze()
    supervisor = Supervisor(
        partial(work, settings),
        count=settings.workers,
        listener=listener,
        on_up=partial(_announce, settings, listener, logs),
        stop_timeout_s=settings.drain_delay_s + settings.shutdown_timeout_s + _STOP_GRACE_S,
        passes_hangup=settings.reload != "off",
    )
    return supervisor.run()


def _announce(settings: Settings, listener: socket.socket, logs: Logs) -> None:
    """Log where the gateway serves, whatever the level is."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.tls_cert_file is None else "https"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    docs = f"  (docs: {address}/docs)" if settings.docs else ""
    logs.events.info(f"anabranch {__version__} serves {settings.document} at {address}{docs}")


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
