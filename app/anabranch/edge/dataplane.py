"""The data plane: finds the endpoint of a request by path and method, and serves it. A reload swaps one reference: requests in flight finish
on the plans that they started with."""

from collections.abc import Iterator
from itertools import chain
from time import monotonic
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from anabranch.core.forwarding import TrustedProxies, public_prefix
from anabranch.core.metric import Sample, Sampled, metric
from anabranch.edge import explain, problems, request_id
from anabranch.edge.disconnect import WATCH_AFTER_S
from anabranch.edge.endpoint import EndpointHandler
from anabranch.edge.generation import Generation
from anabranch.edge.respond import framed, of_problem, send_response
from anabranch.edge.scope import join_headers, raw_path
from anabranch.edge.served import Served
from anabranch.edge.table import Leaf, RouteTable, Values
from anabranch.engine.event import ObserverOf, RequestTracer
from anabranch.engine.run import Bind
from anabranch.errors import MethodNotAllowed
from anabranch.guard.guarding import Guarding
from anabranch.guard.stack import Guard, build_guards
from anabranch.guard.tools import Tools
from anabranch.journal.recorder import RecorderOf
from anabranch.plan.model import DocumentPlan, EndpointPlan
from anabranch.plan.routes import RESERVED, route_key

Found = tuple[Generation, Leaf[EndpointHandler], Values]
"""Where a path leads: the generation in force, what is served there by method, and the values of the path's parameters."""

_FOUND_KEY: Final = "anabranch.found"
"""Key in the scope of a request that came by Starlette's router."""


IN_FLIGHT: Final = metric("gauge", "requests_in_flight", "", "Requests to endpoints that are in flight.")
ENDPOINTS: Final = metric("gauge", "endpoints", "", "Endpoints of the document in force.")


class DataPlane(BaseRoute):
    """Serves the endpoints of a document. Empty until the first `load`.

    `bind`: of the engine. `allow_explain`: answer `?_explain=true`. `watch_after_s`: age of a request from which its client is watched for a
    disconnect. `observer_of`: returns the observer of an endpoint's requests. `tracer`: starts the requests' spans. Both may be None. `proxies`: in
    front of the gateway; they are believed in what they say of the client; None: there are none.
    `in_flight`: requests being served now.
    """

    def __init__(
        self,
        bind: Bind,
        *,
        allow_explain: bool = False,
        watch_after_s: float = WATCH_AFTER_S,
        observer_of: ObserverOf | None = None,
        tracer: RequestTracer | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self._bind = bind
        self._allow_explain = allow_explain
        self._watch_after_s = watch_after_s
        self._observer_of = observer_of
        self.observe_others = None if observer_of is None else observer_of(None)
        self._tracer = tracer
        self.proxies = proxies or TrustedProxies()
        self.in_flight = 0
        self.generation = Generation(RouteTable(), None)
        """Serves the requests that start now. A new one with each `load`."""

    def load(
        self, document: DocumentPlan, bind: Bind | None = None, recorder_of: RecorderOf | None = None, guarding: Guarding | None = None
    ) -> Generation:
        """Serve `document` from the next request on. Returns the previous generation; requests that started on it finish on it.

        `bind`: of the engine; None keeps the current one. `recorder_of`: returns an endpoint's recorder; None records nothing. `guarding`: what the guards share.
        """
        self._bind = bind or self._bind
        guarding = guarding or Guarding(document.auth, Tools(proxies=self.proxies))
        before = self.generation
        methods: dict[object, set[str]] = {}
        for plan in document.endpoints:
            methods.setdefault(_shape(plan), {"OPTIONS"}).update(_served(plan))
        tells = any(upstream.forwarded != "off" for upstream in document.upstreams.values())
        routes = [
            (
                plan.method,
                plan.path,
                self._handler(
                    plan,
                    recorder_of,
                    methods[_shape(plan)] - _served(plan),
                    self.proxies if tells or _asks_for_address(plan) else None,
                    guarding,
                ),
            )
            for plan in document.endpoints
        ]
        self.generation = Generation(RouteTable(routes, reserved=RESERVED), document)
        return before

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`: of the data plane, and of the guards."""
        yield Sample(IN_FLIGHT, (), self.in_flight)
        yield Sample(ENDPOINTS, (), self.endpoint_count)
        for guards in self.guards.values():
            for guard in guards:
                if isinstance(guard, Sampled):
                    yield from guard.samples()

    def _handler(
        self, plan: EndpointPlan, recorder_of: RecorderOf | None, others: set[str], proxies: TrustedProxies | None, guarding: Guarding
    ) -> EndpointHandler:
        """`others`: the methods that the path has besides the plan's. `proxies`: None where services are told nothing of the client."""
        return EndpointHandler(
            plan,
            self._bind(plan),
            guards=build_guards(plan, guarding),
            recorder=None if recorder_of is None else recorder_of(plan),
            observe=None if self._observer_of is None else self._observer_of(plan),
            watch_after_s=self._watch_after_s,
            allow=", ".join(sorted(others)).encode(),
            proxies=proxies,
        )

    @property
    def document(self) -> DocumentPlan | None:
        """The plan of the current document. A new object after each `load`; None before the first."""
        return self.generation.document

    @property
    def guards(self) -> dict[str, tuple[Guard, ...]]:
        """The guards of each endpoint, by its name. Changes with each `load`."""
        return {handler.plan.name: tuple(chain(*handler.guards)) for handler in self.generation.table.served}

    @property
    def endpoint_count(self) -> int:
        document = self.generation.document
        return 0 if document is None else len(document.endpoints)

    def find(self, path: bytes) -> Found | None:
        """Where `path` (percent-encoded, without the query) leads; None: to no endpoint."""
        generation = self.generation
        found = generation.table.match(path)
        return None if found is None else (generation, *found)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = self.find(raw_path(scope)) if scope["type"] == "http" else None
        return (Match.NONE, {}) if found is None else (Match.FULL, {_FOUND_KEY: found})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope[_FOUND_KEY], scope, receive, send)

    async def serve(self, found: Found, scope: Scope, receive: Receive, send: Send, *, is_explained: bool = False) -> None:
        """Serve a request for which an endpoint was found. `is_explained`: explain it, whatever its query says."""
        arrived = monotonic()
        generation, leaf, values = found
        headers = join_headers(scope["headers"])
        trace = request_id.read(headers)
        method: str = scope["method"]
        served = Served(method, scope["path"], trace, arrived)
        handler = leaf.methods.get(method)
        if handler is None:
            prefix = public_prefix(headers.get(b"x-forwarded-prefix"), scope.get("root_path", ""))
            await _answer_without_endpoint(served, leaf.allow, prefix, send)
            served.end(self.observe_others)
            return
        wants_notes = is_explained or (self._allow_explain and explain.is_requested(scope.get("query_string", b"")))
        request = handler.request_of(scope, headers, values, trace, arrived, wants_notes=wants_notes)
        plan = handler.plan
        self.in_flight += 1
        served.begin(plan.name, plan.path, headers, generation, self._tracer)
        request.traceparent = served.traceparent
        try:
            await handler.serve(request, receive, send, served)
        finally:
            if request.releases is not None:
                request.end()
            self.in_flight -= 1
            served.end(handler.observe)


def _shape(plan: EndpointPlan) -> object:
    """The same for all endpoints of one path, however its parameters are called."""
    return route_key("", plan.segments)[1]


def _asks_for_address(plan: EndpointPlan) -> bool:
    """Whether a guard of the endpoint depends on where a request comes from."""
    source = plan.source
    return plan.access is not None or bool(source.allow_from or source.deny_from) or any(limit.needs_address for limit in plan.limits)


def _served(plan: EndpointPlan) -> set[str]:
    return {"GET", "HEAD"} if plan.method == "GET" else {plan.method}


async def _answer_without_endpoint(served: Served, allow: bytes, prefix: str, send: Send) -> None:
    """Answer OPTIONS, or a method that the path does not have."""
    request_id = served.trace.request_id
    if served.method == "OPTIONS":
        response = framed(204, [(b"allow", allow), (b"x-request-id", request_id)], b"", is_head=False)
    else:
        error = MethodNotAllowed(f"this path allows {allow.decode()}", headers={"allow": allow.decode()})
        served.code = error.code
        response = of_problem(problems.of_request(error, request_id, prefix), is_head=served.method == "HEAD")
    served.status = response.status
    served.sent_bytes = await send_response(response, send)
