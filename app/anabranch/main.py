"""Wires the parts together. The only module that knows all of them: document -> plans -> upstreams -> engine -> edge."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from anabranch.cache.entries import StaleStore
from anabranch.compute.pools import PoolMaker, make_pool
from anabranch.config.problems import did_you_mean
from anabranch.document.compile import Compiled, compile_file, keep_routers
from anabranch.document.reload import Reloader, ReloadState
from anabranch.document.service import Service
from anabranch.document.upstreams import Opener
from anabranch.document.warm import origins_of, restoring
from anabranch.document.watch import changes
from anabranch.edge.app import Gateway, build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.edge.generation import Generation
from anabranch.errors import ConfigError, MissingExtraError, Problem
from anabranch.guard.concurrency import Gate, gates_of
from anabranch.journal.journal import Journal
from anabranch.journal.redact import Redaction
from anabranch.observe import sources
from anabranch.observe.logs import Logs
from anabranch.observe.observation import Observation, open_tracing
from anabranch.plan.model import DocumentPlan
from anabranch.replay.answers import RecordedAnswers, RecordedTransport
from anabranch.server.admin.app import ExplainRoute, build_admin, json_route, metrics_route
from anabranch.server.admin.journal import routes as journal_routes
from anabranch.server.admin.reload import Others
from anabranch.server.admin.reload import routes as reload_routes
from anabranch.server.admin.server import AdminServer
from anabranch.server.admission_protocol import with_admission
from anabranch.server.head import observed
from anabranch.server.health import Health, Probe
from anabranch.server.health import routes as health_routes
from anabranch.settings import Settings
from anabranch.sinks.open import Shippers
from anabranch.upstream.open import open_transport

logger = logging.getLogger("anabranch")


def create_app(
    settings: Settings, logs: Logs | None = None, others: Others | None = None, *, opener: Opener | None = None
) -> Gateway:  # fmt: skip
    """The gateway as an ASGI application. Raises ConfigError when the document or the settings are not usable. Opens nothing before its
    lifespan begins. `logs`: where requests are logged; None: a new log on stderr. `others`: the other workers, which an admin reload
    includes. `opener`: makes the transports of the upstreams instead of real ones, for tests; then no name is resolved, and no record
    shipped."""
    if settings.document is None:
        raise ConfigError([_no_document()])
    document = settings.document
    compiled = compile_file(document)
    for warning in compiled.warnings:
        logger.warning("%s", warning)
    observation = _observation(settings, logs or Logs(settings.log_format))
    observation.logs.redact = compiled.draft.secrets.redact
    pool_maker = partial(make_pool, stall_s=settings.hook_stall_s)
    health = Health()
    health.block("start", "the gateway is starting")
    answers = _recorded_answers(settings, compiled)
    stale = _stale_store(compiled)
    is_shipped = opener is None
    first = _service(compiled, observation, pool_maker, _journal(compiled.plan, settings, is_shipped=is_shipped), answers, stale, opener)
    plane = DataPlane(
        first.engine.bind, allow_explain=settings.allow_explain, observer_of=observation.observer_of, tracer=observation.tracer
    )

    def prepare() -> Service:
        """Compile the current document for a reload. A change that needs a restart becomes a warning."""
        again = compile_file(document)
        keep_routers(compiled.draft.document.routers, again.draft)
        observation.logs.redact = again.draft.secrets.redact
        return _service(again, observation, pool_maker, _journal(again.plan, settings, is_shipped=is_shipped), answers, stale, opener)

    def swap(service: Service) -> Generation:
        """Switch the document's endpoints and the Python routes to the new service at the same moment."""
        bounds = service.plan.stale
        stale.bound(max_entries=bounds.max_entries, max_bytes=bounds.max_bytes)
        return app.load(service)

    reloader = Reloader(first, prepare=prepare, swap=swap, linger_s=settings.shutdown_timeout_s)

    def show(state: ReloadState) -> None:
        if state.is_failed:
            health.degrade("reload", "the document on disk is not usable; the previous one is still served")
        else:
            health.clear("reload")

    reloader.observe(show)
    health.mention(partial(_journal_note, reloader))
    health.mention(partial(_sink_note, reloader))
    for name in settings.ready_upstreams:
        health.watch(_readiness_of(name, reloader, compiled.plan))
    if observation.metrics is not None:
        observation.metrics.watch(upstreams=lambda: reloader.service.upstreams, gateway=lambda: plane)
        observation.metrics.register("reloads", sources.of_reloads(reloader))
        observation.metrics.register("journal", sources.of_journal(lambda: reloader.service.journal))
        observation.metrics.register("shippers", sources.of_shippers(lambda: reloader.service.shippers))
        observation.metrics.register("compute", sources.of_compute(lambda: reloader.service.compute.pools))
        observation.metrics.register("gates", sources.of_gates(lambda: {**({} if gate is None else {"": gate}), **gates_of(plane.guards)}))
    gate = Gate(limit=settings.max_requests, waiting=settings.max_waiting, wait_s=settings.max_wait_s) if settings.max_requests else None
    protocol = observed(observation.refusals)
    public_routes: list[BaseRoute] = []
    if observation.metrics is not None and settings.admin_port is None:
        public_routes.append(metrics_route(observation.metrics.render))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(observation)
            if answers is not None:
                exits.callback(answers.close)
            await exits.enter_async_context(reloader)
            origins = origins_of(first.plan)
            if first.journal is not None and origins:
                await exits.enter_async_context(restoring(stale, first.journal.folder, origins, _stale_store(compiled)))
            if settings.admin_port is not None:
                admin = AdminServer(
                    _admin(settings, health, reloader, plane, observation, others),
                    host=settings.admin_host,
                    port=settings.admin_port,
                    protocol=protocol,
                )
                await exits.enter_async_context(admin)
                logger.info("the admin server listens on %s port %d", settings.admin_host, admin.port)
                app.state.admin_port = admin.port
            if settings.reload == "watch":
                await exits.enter_async_context(_watching(document, reloader))
            health.clear("start")
            yield
            health.block("stop", "the gateway is stopping")

    observe_others = None if observation.observer_of is None else observation.observer_of(None)
    app = build_app(
        plane=plane,
        routers=compiled.routers,
        routes=[*health_routes(health), *public_routes],
        lifespan=lifespan,
        is_docs_enabled=settings.docs,
        observe_others=observe_others,
        tracer=observation.tracer,
    )
    app.load(first)
    app.state.reloader = reloader
    app.state.health = health
    app.state.protocol = protocol
    if gate is not None:
        app.state.gate = gate
        app.state.protocol = with_admission(protocol, gate, app)
        app.limit(gate)
    return app


def _observation(settings: Settings, logs: Logs) -> Observation:
    """Logs, metrics, timings and tracing, as the settings enable them. Raises ConfigError."""
    try:
        tracing = open_tracing(os.environ, ratio=settings.trace_ratio) if settings.tracing else None
    except (ValueError, MissingExtraError) as error:
        raise ConfigError([_wrong_setting("ANABRANCH_TRACING", str(error))]) from error
    return Observation(
        logs,
        access=settings.access_log,
        has_metrics=settings.metrics,
        has_timings=settings.admin_port is not None,
        tracing=tracing,
    )


def _admin(
    settings: Settings, health: Health, reloader: Reloader, plane: DataPlane, observation: Observation, others: Others | None
) -> ASGIApp:
    """The admin server's application."""
    routes: list[BaseRoute] = [*reload_routes(reloader, others), ExplainRoute(plane)]
    if observation.metrics is not None:
        routes.append(metrics_route(observation.metrics.render))
    if observation.timings is not None:
        routes.append(json_route("/admin/timings", observation.timings.report))
    token = None if settings.admin_token is None else settings.admin_token.get_secret_value()
    if token is not None:
        routes += journal_routes(
            lambda: None if reloader.service.journal is None else reloader.service.journal.folder, lambda: reloader.service.shippers
        )
    return build_admin(readiness=health, routes=routes, token=token)


def _journal(plan: DocumentPlan, settings: Settings, *, is_shipped: bool) -> tuple[Journal | None, Shippers | None]:
    """The document's journal and its shippers, not open yet; None when no endpoint keeps records. Answers that come from a journal are not
    recorded again."""
    if settings.from_journal is not None or not any(endpoint.is_recorded for endpoint in plan.endpoints):
        return None, None
    config = plan.journal
    shippers = Shippers(config, settings.journal_path) if config.sinks and is_shipped else None
    is_needed = None if shippers is None else shippers.is_needed
    return Journal(config, folder=settings.journal_path, is_needed=is_needed), shippers


def _journal_note(reloader: Reloader) -> str | None:
    """Readiness note for a journal that cannot be written. Does not affect readiness: other endpoints keep working."""
    journal = reloader.service.journal
    trouble = None if journal is None else journal.counters.trouble
    return None if trouble is None else f"the journal cannot be written: {trouble}"


def _sink_note(reloader: Reloader) -> str | None:
    """Readiness note for unreachable sinks. Does not affect readiness: no record is lost, and no request waits for a sink. The database's
    own error goes only to the log."""
    shippers = reloader.service.shippers
    unreachable = [] if shippers is None else [shipper.name for shipper in shippers.each if shipper.counters.trouble is not None]
    return f"the journal cannot be shipped to {', '.join(unreachable)} now; its records wait on disk" if unreachable else None


def _recorded_answers(settings: Settings, compiled: Compiled) -> RecordedAnswers | None:
    """Recorded answers in place of the upstreams, when the settings enable them. Raises ConfigError."""
    folder = settings.from_journal
    if folder is None:
        return None
    try:
        answers = RecordedAnswers.of_folder(folder, Redaction(compiled.draft.document.journal.redact))
    except OSError as error:
        raise ConfigError(
            [_wrong_setting("ANABRANCH_FROM_JOURNAL", f"the journal {folder} cannot be read: {error.strerror or error}")]
        ) from error
    if not answers.calls:
        answers.close()
        message = f"the journal {folder} contains no upstream answers"
        raise ConfigError([_wrong_setting("ANABRANCH_FROM_JOURNAL", message, "endpoints with `journal: {bodies: steps}` record them")])
    logger.warning("upstreams are not called: %d answers come from the journal %s", answers.calls, folder)
    return answers


def _stale_store(compiled: Compiled) -> StaleStore:
    bounds = compiled.plan.stale
    return StaleStore(max_entries=bounds.max_entries, max_bytes=bounds.max_bytes)


def _readiness_of(name: str, reloader: Reloader, plan: DocumentPlan) -> Probe:
    """The /readyz probe for one upstream. Raises ConfigError when the document has no such upstream, or the upstream has no breaker."""
    known = plan.upstreams.get(name)
    if known is None:
        hint = did_you_mean(name, list(plan.upstreams))
        raise ConfigError([_wrong_setting("ANABRANCH_READY_UPSTREAMS", f"the document has no upstream {name}", hint)])
    if known.breaker is None:
        raise ConfigError(
            [
                _wrong_setting(
                    "ANABRANCH_READY_UPSTREAMS", f"the upstream {name} has no breaker, which readiness depends on", "add a breaker"
                )
            ]
        )

    def probe() -> str | None:
        stack = reloader.service.upstreams.stacks.get(name)
        # Ready again once the breaker's open time is over: only new requests can close the breaker.
        return None if stack is None or stack.would_allow(monotonic()) else f"the upstream {name} is unavailable: its breaker is open"

    return probe


def _service(
    compiled: Compiled,
    observation: Observation,
    pool_maker: PoolMaker,
    journals: tuple[Journal | None, Shippers | None],
    answers: RecordedAnswers | None,
    stale: StaleStore,
    opener: Opener | None,
) -> Service:
    """The service for this document, not open yet. `answers` or `opener`: replace its upstreams. `stale`: its stale-if-error store."""
    plan = compiled.plan
    if answers is not None:
        opener = partial(RecordedTransport, answers)
    if opener is None:
        opener = partial(open_transport, contexts=compiled.contexts)
    else:
        # No DNS lookups for upstreams that are not called.
        plan = replace(plan, upstreams={name: replace(upstream, dns_ttl_s=None) for name, upstream in plan.upstreams.items()})
    certificates = [file for upstream in plan.upstreams.values() if upstream.tls is not None for file in upstream.tls.files]
    return Service(
        plan,
        digest=compiled.draft.digest,
        warnings=tuple(compiled.draft.problems.warnings),
        files=(*map(str, compiled.draft.files), *certificates),
        observer=observation.policy,
        around=observation.around,
        opener=lambda upstream: observation.transport(opener(upstream)),
        pool_maker=pool_maker,
        journal=journals[0],
        shippers=journals[1],
        stale=stale,
    )


@asynccontextmanager
async def _watching(document: Path, reloader: Reloader) -> AsyncIterator[None]:
    """Reload the document when it changes on disk."""

    async def watch() -> None:
        async with aclosing(changes(document, lambda: reloader.service.files, is_eager=lambda: reloader.state.is_failed)) as changed:
            async for _ in changed:
                await reloader.reload("watch")

    task = asyncio.create_task(watch(), name="watch the document")
    task.add_done_callback(_report_end)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the document is no longer watched for changes; SIGHUP still reloads it", exc_info=error)


def _wrong_setting(name: str, message: str, hint: str = "") -> Problem:
    return Problem(file="settings", line=1, column=1, path=name, message=message, hint=hint)


def _no_document() -> Problem:
    return Problem(
        file="settings", line=1, column=1, path="ANABRANCH_DOCUMENT", message="no gateway document is given",
        hint="run `anabranch run FILE`, or set ANABRANCH_DOCUMENT to a file or folder",
    )  # fmt: skip
