"""Wires the parts together: settings -> document -> parts -> application. The only module that knows them all."""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.routing import BaseRoute

from anabranch.core.forwarding import TrustedProxies
from anabranch.document.compile import compile_file
from anabranch.document.reload import Reloader
from anabranch.document.services import Services
from anabranch.document.upstreams import Opener
from anabranch.document.warnings import warnings_of
from anabranch.document.watch import Watching
from anabranch.edge.app import Gateway, build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.guard.concurrency import Gate
from anabranch.guard.guarding import guarding_of
from anabranch.observe.logs import Logs
from anabranch.observe.observation import open_observation
from anabranch.replay.answers import open_answers
from anabranch.server.admin.about import about
from anabranch.server.admin.app import build_admin, metrics_route, routes_of
from anabranch.server.admin.reload import Others
from anabranch.server.admin.server import AdminServer
from anabranch.server.admission_protocol import with_admission
from anabranch.server.health import Health, compute_probe, upstream_probe
from anabranch.server.health import routes as health_routes
from anabranch.server.http1.connection import BoundedProtocol, observed
from anabranch.server.tls import ServerTLS, open_tls
from anabranch.settings import Settings, document_of, read_settings

logger = logging.getLogger("anabranch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A gateway with what the server of this process needs to know of it. `protocol`: of its connections. `admin`, `gate`, `tls`: None when not set."""

    app: Gateway
    reloader: Reloader
    health: Health
    protocol: type[BoundedProtocol]
    admin: AdminServer | None
    gate: Gate | None
    tls: ServerTLS | None


def create_app(settings: Settings | Path | str | None = None) -> Gateway:
    """The gateway as an ASGI application, to be served or to be mounted in another one.

    `settings`: also the path of the document, everything else being taken from the environment; None takes the document from there too.
    Raises ConfigError when the document or the settings are not usable. Opens nothing before its lifespan begins, or its first request.
    """
    if not isinstance(settings, Settings):
        settings = read_settings(document=settings)
    return assemble(settings).app


def assemble(settings: Settings, logs: Logs | None = None, others: Others | None = None, *, stand_in: Opener | None = None) -> Process:
    """The gateway and what belongs to it. Raises ConfigError. Nothing is opened yet.

    `logs`: where requests are logged; None: a new log on stderr. `others`: the other workers, which an admin reload includes; their supervisor has
    logged the warnings. `stand_in`: opens what answers in place of the upstreams.
    """
    document = document_of(settings)
    compiled = compile_file(document)
    if others is None:
        for warning in warnings_of(compiled, settings):
            logger.warning("%s", warning)
    observation = open_observation(settings, logs or Logs(settings.log_format), os.environ)
    proxies = TrustedProxies(settings.trusted_proxies)
    answers = open_answers(settings.from_journal, compiled.plan.journal.redact)
    services = Services(
        document,
        compiled,
        settings,
        hooks=observation.hooks,
        hide=observation.logs.hide,
        stand_in=stand_in if answers is None else answers.open,
        rooms=(partial(guarding_of, workers=settings.workers, proxies=proxies),),
    )
    health = Health()
    plane = DataPlane(
        services.first.engine.bind,
        allow_explain=settings.allow_explain,
        observer_of=observation.observer_of,
        tracer=observation.tracer,
        proxies=proxies,
    )
    pages: list[BaseRoute] = [*health_routes(health)]
    if observation.metrics is not None and settings.admin_port is None:
        pages.append(metrics_route(observation.metrics.render))
    app = build_app(
        plane=plane,
        routers=compiled.routers,
        routes=pages,
        is_docs_enabled=settings.docs,
        observe_others=observation.observe_others,
        tracer=observation.tracer,
    )
    app.load(services.first)
    reloader = Reloader(services.first, prepare=services.again, swap=app.load, linger_s=settings.shutdown_timeout_s)
    protocol = observed(observation.refusals)
    admin = None
    if settings.admin_port is not None:
        routes = routes_of(reloader, others, observation.metrics, observation.timings, is_private=settings.admin_token is not None)
        names = (*settings.admin_names, settings.admin_host.lower())
        told = partial(about, services, reloader, others)
        admin_app = build_admin(health, plane, routes, settings.admin_token, names, told)
        admin = AdminServer(admin_app, settings.admin_host, settings.admin_port, protocol)
    gate = Gate(limit=settings.max_requests, waiting=settings.max_waiting, wait_s=settings.max_wait_s) if settings.max_requests else None
    if gate is not None:
        protocol = with_admission(protocol, gate, app)
        app.limit(gate)
        observation.watch(gate)
    observation.watch(plane, reloader, services.code)
    health.mention(reloader)
    health.watch(compute_probe(reloader))
    for name in settings.ready_upstreams:
        health.watch(upstream_probe(name, reloader))
    watching = Watching(document, reloader) if settings.reload == "watch" else None
    tls = open_tls(settings)
    app.add_parts(observation, answers, tls, reloader, services.restoring(), admin, watching, health)
    return Process(app=app, reloader=reloader, health=health, protocol=protocol, admin=admin, gate=gate, tls=tls)
