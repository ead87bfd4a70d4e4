"""The command `anabranch`. Exit codes: 0, 2 for a command that is used wrongly, 3 for a document or settings that are not usable."""

import errno
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
import uvicorn
from pydantic import ValidationError

from anabranch import __version__
from anabranch.cli.journal import journal
from anabranch.cli.replay import replay
from anabranch.cli.ship import ship
from anabranch.config.problems import did_you_mean
from anabranch.describe.document_schema import document_schema
from anabranch.document.compile import Compiled, compile_file
from anabranch.document.reload import Reloader
from anabranch.edge.app import Gateway, build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.run import Engine
from anabranch.errors import ConfigError, Problem
from anabranch.main import create_app
from anabranch.observe.logs import Logs
from anabranch.observe.top import TopError, show_top
from anabranch.plan.explain import explain as explain_plan
from anabranch.policy import stack
from anabranch.server import gc_tuning as memory
from anabranch.server.admin.reload import outcome_of
from anabranch.server.health import Health
from anabranch.server.heartbeat import Pulse
from anabranch.server.peers import Outcome, Siblings
from anabranch.server.server import Server
from anabranch.server.workers import Supervisor
from anabranch.settings import Settings

BAD_USE = 2
BAD_CONFIG = 3
_STOP_GRACE_S = 30.0
"""What a worker may need beyond its drain, to flush and to close, before it is killed."""

logger = logging.getLogger("anabranch")

cli = typer.Typer(
    name="anabranch",
    help="An API aggregation gateway: one request branches out to many services and rejoins as one JSON document.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Document = Annotated[Path, typer.Argument(metavar="FILE", help="The gateway document: a file, or a folder of files.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of the screen.")]


def main() -> None:
    cli()


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"anabranch {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    """Options of the command itself."""


@cli.command()
def run(
    document: Annotated[Path | None, typer.Argument(metavar="FILE", help="The gateway document; ANABRANCH_DOCUMENT when left out.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; ANABRANCH_HOST when left out.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, 0 for a free one; ANABRANCH_PORT when left out.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes that serve; ANABRANCH_WORKERS when left out.")] = None,
    from_journal: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Answer from this journal, and call no service; ANABRANCH_FROM_JOURNAL when left out."),
    ] = None,
) -> None:
    """Run the gateway until SIGINT or SIGTERM."""
    memory.hold()
    settings = _settings(document=document, host=host, port=port, workers=workers, from_journal=from_journal)
    logs = Logs(settings.log_format, level=settings.log_level)
    logs.install()
    app: Gateway | None = None
    try:
        if settings.workers > 1 and settings.document is not None:
            _prove(settings, compile_file(settings.document))
        else:
            app = create_app(settings, logs)
    except ConfigError as error:
        _refuse(error.problems)
    listener = _listen(settings.host, settings.port)
    shown_host, shown_port = listener.getsockname()[:2]
    address = f"http://{f'[{shown_host}]' if ':' in shown_host else shown_host}:{shown_port}"
    announcement = f"anabranch {__version__} serves {settings.document} at {address}" + (
        f"  (docs: {address}/docs)" if settings.docs else ""
    )

    def announce() -> None:
        """For whoever has started it; where every line has to be JSON, as one of the log."""
        if settings.log_format == "json":
            logs.events.info(announcement)
        else:
            typer.echo(announcement, err=True)

    if app is not None:
        _server(app, settings, on_up=announce).run(sockets=[listener])
        return
    memory.settle()
    supervisor = Supervisor(
        partial(_work, settings),
        count=settings.workers,
        listener=listener,
        on_up=announce,
        stop_timeout_s=settings.drain_delay_s + settings.shutdown_timeout_s + _STOP_GRACE_S,
        passes_hangup=settings.reload != "off",
    )
    raise typer.Exit(supervisor.run())


@cli.command()
def check(document: Document) -> None:
    """Check a document: every problem in it, with file, line and column."""
    compiled = _compile(document)
    for warning in compiled.warnings:
        typer.echo(str(warning))
    parts = [_counted(len(compiled.plan.endpoints), "endpoint"), _counted(len(compiled.plan.upstreams), "upstream")]
    parts += [_counted(len(compiled.warnings), "warning")] if compiled.warnings else []
    typer.echo(f"{document}: {', '.join(parts)}, no problems")


@cli.command()
def explain(
    document: Document,
    endpoint: Annotated[str | None, typer.Argument(metavar="ENDPOINT", help="Name or path of one endpoint; all when left out.")] = None,
) -> None:
    """Show the plan of each endpoint: what runs when, how answers are read, the longest way against the deadline."""
    compiled = _compile(document)
    plans = compiled.plan
    chosen = [plan for plan in plans.endpoints if endpoint is None or endpoint in (plan.name, plan.path, f"{plan.method} {plan.path}")]
    if endpoint is not None and not chosen:
        names = [plan.name for plan in plans.endpoints]
        hint = did_you_mean(endpoint, [*names, *(plan.path for plan in plans.endpoints)])
        typer.echo(f"there is no endpoint {endpoint!r}; {hint or 'the document has ' + (', '.join(names) or 'none')}", err=True)
        raise typer.Exit(BAD_USE)
    text = "\n\n".join(explain_plan(plan, plans.upstreams, stack.describe) for plan in chosen)
    typer.echo(compiled.draft.secrets.redact(text or "the document has no endpoints"))


@cli.command()
def top(
    url: Annotated[
        str | None, typer.Option(help="Address of the admin server; by ANABRANCH_ADMIN_HOST and ANABRANCH_ADMIN_PORT when left out.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show the table once and leave.")] = False,
    since_start: Annotated[bool, typer.Option("--since-start", help="All since the start instead of the last minutes.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show how long endpoints and their steps take in a running gateway. Ctrl-C ends it."""
    settings = _settings()
    if url is None:
        if not settings.admin_port:
            typer.echo("there is no address to ask: give --url, or set ANABRANCH_ADMIN_PORT as the gateway has it", err=True)
            raise typer.Exit(BAD_USE)
        url = f"http://{f'[{settings.admin_host}]' if ':' in settings.admin_host else settings.admin_host}:{settings.admin_port}"
    token = None if settings.admin_token is None else settings.admin_token.get_secret_value()
    try:
        show_top(url, token, is_once=once, is_recent=not since_start, every_s=every)
    except TopError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


cli.command()(replay)
journal.command()(ship)
cli.add_typer(journal, name="journal")


@cli.command()
def openapi(document: Document, output: Output = None) -> None:
    """Write the API description (OpenAPI 3.1) of a document."""
    _write(describe(_compile(document)), output)


@cli.command()
def schema(output: Output = None) -> None:
    """Write the JSON Schema of gateway documents, for editors."""
    _write(orjson.dumps(document_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), output)


def describe(compiled: Compiled) -> bytes:
    """The API description of a compiled document as indented JSON: what the gateway shows at /openapi.json."""
    plane = DataPlane(Engine({}).run)
    plane.load(compiled.plan)
    app = build_app(plane=plane, health_status=Health(), routers=compiled.routers)
    return orjson.dumps(app.openapi(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _prove(settings: Settings, compiled: Compiled) -> None:
    """The supervisor's look at the document, so that a bad one is reported once and not by every worker."""
    for warning in compiled.warnings:
        logger.warning("%s", warning)
    if settings.admin_port is None:
        logger.warning("with several workers /metrics shows one of them: set ANABRANCH_ADMIN_PORT, and each has a port of its own")


def _work(settings: Settings, number: int, listener: socket.socket, pipe: Connection) -> None:
    """The life of one of several workers, in a process of its own."""
    memory.hold()
    if settings.admin_port:
        settings = settings.model_copy(update={"admin_port": settings.admin_port + number})
    logs = Logs(settings.log_format, level=settings.log_level)
    logs.install()
    pulse = Pulse(pipe, on_orphaned=lambda: server.stop())  # noqa: PLW0108 - there is no server yet
    siblings = Siblings(pulse, number)
    try:
        app = create_app(settings, logs, siblings)
    except ConfigError:
        # The document was good when the supervisor read it, so it has just changed: it is reported where reloads are.
        logger.exception("worker %d cannot start", number)
        sys.exit(BAD_CONFIG)
    reloader: Reloader = app.state.reloader

    async def reload() -> Outcome:
        return outcome_of(await reloader.reload("admin"))

    def up() -> None:
        siblings.listen(reload)
        pulse.up()

    def drain() -> None:
        siblings.close()
        pulse.draining()

    server = _server(app, settings, on_up=up, on_pulse=pulse.alive, on_drain=drain, is_end=pulse.is_end)
    server.run(sockets=[listener])


def _server(
    app: Gateway,
    settings: Settings,
    *,
    on_up: Callable[[], None],
    on_pulse: Callable[[], None] | None = None,
    on_drain: Callable[[], None] | None = None,
    is_end: Callable[[], bool] | None = None,
) -> Server:
    """The server of this process: reloads at SIGHUP, drains at SIGTERM and SIGINT."""
    health: Health = app.state.health
    reloader: Reloader = app.state.reloader
    config = uvicorn.Config(
        app,
        http=app.state.protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # both are given to asyncio as they are
        timeout_graceful_shutdown=settings.shutdown_timeout_s,  # type: ignore[arg-type]
    )

    def up() -> None:
        memory.settle()
        reloader.observe(lambda _: memory.resettle())
        on_up()

    def drain() -> None:
        health.block("stop", "the gateway is stopping")
        if on_drain is not None:
            on_drain()

    return Server(
        config,
        delay_s=settings.drain_delay_s,
        on_up=up,
        on_drain=drain,
        on_pulse=on_pulse,
        is_end=is_end,
        on_hangup=None if settings.reload == "off" else lambda: reloader.request("signal"),
    )


def _settings(**given: object) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            name = "_".join(str(part) for part in fault["loc"]).upper()
            typer.echo(f"settings: ANABRANCH_{name}: {fault['msg'][:1].lower()}{fault['msg'][1:]}", err=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        typer.echo(f"settings: the file .env cannot be read: {reason}", err=True)
    raise typer.Exit(BAD_CONFIG)


def _compile(document: Path) -> Compiled:
    try:
        return compile_file(document)
    except ConfigError as error:
        _refuse(error.problems)


def _refuse(problems: list[Problem]) -> NoReturn:
    for problem in problems:
        typer.echo(str(problem), err=True)
    typer.echo(_counted(len(problems), "problem"), err=True)
    raise typer.Exit(BAD_CONFIG)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything is opened, so that a busy port is one clear line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol: asyncio turns Nagle's algorithm off only where it is named, and 40 ms a response are lost with it.
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


def _write(content: bytes, output: Path | None) -> None:
    """To the file or the screen. Flushed here: a reader that has gone away must not show up as a traceback at the end."""
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        typer.echo(f"cannot write {output}: {error.strerror}", err=True)
        raise typer.Exit(BAD_USE) from None
