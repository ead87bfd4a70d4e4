"""The data plane: one route that serves every endpoint of the document, and a request's path through the edge.

Knows plans and calls the engine's one function, but not how steps run. A reload swaps one reference: requests in flight finish on the
plans that they started with.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Final

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from anabranch.config import model as config
from anabranch.edge import body, explain, problems
from anabranch.edge import request_id as trace
from anabranch.edge.disconnect import WATCH_AFTER_S, DisconnectWatch
from anabranch.edge.parameters import fill
from anabranch.edge.respond import Responder, Response, framed, of_problem, send_response
from anabranch.edge.table import Leaf, RouteTable, Values
from anabranch.engine.event import ObserverOf, RequestSpan, RequestTracer, ResponseEvent, ResponseObserver
from anabranch.engine.outcome import Result
from anabranch.errors import AnabranchError, JournalError, MethodNotAllowed, RequestError
from anabranch.guard.concurrency import Gate
from anabranch.journal.recorder import CompletedRequest, Recorder, RecorderOf
from anabranch.jsontext.frame import Frame
from anabranch.plan.model import DocumentPlan, EndpointPlan
from anabranch.plan.routes import RESERVED

logger = logging.getLogger("anabranch.edge")

Pairs = tuple[tuple[bytes, bytes], ...]
Run = Callable[[EndpointPlan, Frame, dict[bytes, bytes], Pairs, float, bool], Awaitable[Result]]
"""Runs the engine. Arguments: plan, frame, the client's header fields (lower-case names, repeats joined), header fields for every upstream
call, deadline (loop time), whether to keep notes for explain."""

DATA_PLANE_KEY: Final = "anabranch.match"
"""Key in the scope of every request that the data plane serves."""
EXPLAIN_KEY: Final = "anabranch.explain"
"""Key in the scope of a request to be explained regardless of its query."""
_CLIENT_GONE: Final = 499
"""Status in logs and metrics of a request whose client disconnected, as in nginx."""
_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_EXPLAIN_FIELDS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class _Served(msgspec.Struct, frozen=True):
    plan: EndpointPlan
    responder: Responder
    observe: ResponseObserver | None
    recorder: Recorder | None
    gate: Gate | None


class Generation:
    """Everything that a reload replaces together. `active`: requests in flight on it. `gates`: by endpoint name."""

    __slots__ = ("_idle", "active", "app", "document", "gates", "run", "table")

    def __init__(
        self, table: RouteTable[_Served], document: DocumentPlan | None, app: ASGIApp, run: Run, gates: dict[str, Gate] | None = None
    ) -> None:
        self.table = table
        self.document = document
        self.app = app
        self.run = run
        self.gates = gates or {}
        self.active = 0
        self._idle: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Count a request as finished."""
        self.active -= 1
        if not self.active and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def drained(self) -> None:
        """Wait until no request is in flight on this generation. Call it after the generation was replaced, when no new requests can start."""
        if self.active:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle


class DataPlane(BaseRoute):
    """Serves the endpoints of a document. Empty until the first `load`.

    `run`: the engine. `allow_explain`: answer `?_explain=true`. `watch_after_s`: age of a request from which its client is watched for a
    disconnect. `observer_of`: returns the observer of an endpoint's requests. `tracer`: starts the requests' spans. Both may be None.
    `in_flight`: requests being served now.
    """

    def __init__(
        self,
        run: Run,
        *,
        allow_explain: bool = False,
        watch_after_s: float = WATCH_AFTER_S,
        observer_of: ObserverOf | None = None,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._allow_explain = allow_explain
        self._watch_after_s = watch_after_s
        self._observer_of = observer_of
        self._observe_others = None if observer_of is None else observer_of(None)
        self._tracer = tracer
        self.in_flight = 0
        self._generation = Generation(RouteTable(), None, self._serve, run)

    def load(self, document: DocumentPlan, run: Run | None = None, recorder_of: RecorderOf | None = None) -> Generation:
        """Serve `document` from the next request on. Returns the previous generation; requests that started on it finish on it.

        `run`: the engine; None keeps the current one. `recorder_of`: returns an endpoint's recorder; None records nothing.
        """
        before = self._generation
        routes = [(plan.method, plan.path, self._served(plan, recorder_of, document.source.defaults)) for plan in document.endpoints]
        table = RouteTable(routes, reserved=RESERVED)
        gates = {served.plan.name: served.gate for _, _, served in routes if served.gate is not None}
        self._generation = Generation(table, document, with_cors(self._serve, document.source.cors), run or before.run, gates)
        return before

    def _served(self, plan: EndpointPlan, recorder_of: RecorderOf | None, defaults: config.Defaults) -> _Served:
        limit = plan.source.max_requests or defaults.max_requests
        return _Served(
            plan,
            Responder(plan.response),
            None if self._observer_of is None else self._observer_of(plan),
            None if recorder_of is None else recorder_of(plan),
            None if limit is None else Gate(limit=limit, waiting=limit, wait_s=plan.timeout_s / 4),
        )

    @property
    def document(self) -> DocumentPlan | None:
        """The plan of the current document. A new object after each `load`; None before the first."""
        return self._generation.document

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates of endpoints with a request limit, by endpoint name. Changes with each `load`."""
        return self._generation.gates

    @property
    def endpoint_count(self) -> int:
        document = self._generation.document
        return 0 if document is None else len(document.endpoints)

    @property
    def generation(self) -> Generation:
        """The generation that serves requests that start now."""
        return self._generation

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        generation = self._generation
        found = generation.table.match(_raw_path(scope))
        if found is None:
            return Match.NONE, {}
        return Match.FULL, {DATA_PLANE_KEY: (generation, *found)}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation: Generation = scope[DATA_PLANE_KEY][0]
        generation.active += 1
        self.in_flight += 1
        try:
            await generation.app(scope, receive, send)
        finally:
            self.in_flight -= 1
            generation.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        arrived_s = monotonic()
        leaf: Leaf[_Served]
        values: Values
        generation: Generation
        generation, leaf, values = scope[DATA_PLANE_KEY]
        headers = join_headers(scope["headers"])
        request = trace.read(headers)
        method: str = scope["method"]
        served = leaf.methods.get(method)
        if served is None:
            answered = await _answer_without_endpoint(method, leaf.allow, request.request_id, send)
            if self._observe_others is not None:
                self._observe_others(_event_without_endpoint(method, scope["path"], answered, monotonic() - arrived_s, request))
            return
        plan = served.plan
        is_head = method == "HEAD"
        query: bytes = scope.get("query_string", b"")
        is_explained = (self._allow_explain and explain.is_requested(query)) or EXPLAIN_KEY in scope
        deadline_s = arrived_s + plan.timeout_s
        frame = plan.new_frame()
        request_id = request.request_id.decode()
        span: RequestSpan | None = (
            None if self._tracer is None else self._tracer.begin(plan.name, plan.path, method, scope["path"], headers)
        )
        recorder = None if is_explained else served.recorder
        status, code, sent_bytes = _CLIENT_GONE, None, 0
        request_body = b""
        result: Result | None = None
        gate: Gate | None = None
        try:
            try:
                if served.gate is not None:
                    await served.gate.enter()
                    gate = served.gate
                fill(plan, frame, values, query, scope["headers"])
                if plan.body is not None:
                    request_body = await body.read(plan.body, frame, headers, receive, deadline_s)
                result = await self._run_watched(
                    receive, loop, generation.run(plan, frame, headers, request.extra, deadline_s, is_explained)
                )
                if is_explained:
                    response = _explained(plan, result, monotonic() - arrived_s, request.request_id, is_head=is_head)
                else:
                    response = served.responder.respond(result, request.request_id, is_head=is_head)
            except body.ClientGone:
                return
            except RequestError as error:
                code = error.code
                response = of_problem(problems.of_request(error, request_id), request.request_id, is_head=is_head)
            except Exception:
                logger.exception("endpoint %s failed unexpectedly, request %s", plan.name, request_id)
                code = AnabranchError.code
                response = of_problem(problems.internal(request_id), request.request_id, is_head=is_head)
            ready: CompletedRequest | None = None
            if recorder is not None and recorder.is_wanted():
                ready = CompletedRequest(
                    recorder, request.request_id, method, _raw_path(scope), query, headers, request_body, result, code, response.status,
                    response.body, monotonic() - arrived_s, time(),
                )  # fmt: skip
                if recorder.when == "before":
                    try:
                        await recorder.commit(ready, deadline_s)
                    except JournalError as error:
                        code = error.code
                        response = of_problem(problems.of_journal(error, request_id), request.request_id, is_head=is_head)
                elif recorder.when == "later":
                    recorder.defer(ready)
            status = response.status
            try:
                sent_bytes = await send_response(response, send)
            finally:
                if ready is not None and ready.recorder.when == "after":
                    await ready.recorder.put(ready, deadline_s)
        finally:
            if gate is not None:
                gate.leave()
            observe = served.observe
            if observe is not None or span is not None:
                if code is None and result is not None and result.failure is not None:
                    code = result.failure.code
                event = ResponseEvent(
                    plan.name,
                    method,
                    scope["path"],
                    status,
                    code,
                    None if result is None else result.is_complete,
                    monotonic() - arrived_s,
                    result,
                    request.request_id,
                    request.traceparent if span is None else span.traceparent,
                    sent_bytes,
                )
                if span is not None:
                    span.end(event)
                if observe is not None:
                    observe(event)

    async def _run_watched(self, receive: Receive, loop: asyncio.AbstractEventLoop, run: Awaitable[Result]) -> Result:
        """Await `run`. When the client disconnects, cancels it and raises ClientGone. A cancellation from outside is raised as such."""
        watch = DisconnectWatch(receive, loop, self._watch_after_s)
        try:
            try:
                result = await run
            finally:
                await watch.stop()
        except asyncio.CancelledError:
            if watch.absorb():
                raise body.ClientGone from None
            raise
        if watch.is_gone:
            watch.absorb()
            raise body.ClientGone
        return result


def join_headers(raw: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The client's header fields by name. Repeated fields are joined by a comma, cookies by a semicolon (RFC 9110 section 5.3, RFC 9113 8.2.3).

    Fields named in Connection are dropped: they are for one connection only (RFC 9110 section 7.6.1).
    """
    headers = dict(raw)
    if len(headers) != len(raw):
        headers.clear()
        for name, value in raw:
            before = headers.get(name)
            headers[name] = value if before is None else before + (b"; " if name == b"cookie" else b", ") + value
    connection = headers.get(b"connection")
    if connection is not None and connection not in _PLAIN_CONNECTION:
        for named in connection.lower().split(b","):
            headers.pop(named.strip(), None)
    return headers


async def _answer_without_endpoint(method: str, allow: bytes, request_id: bytes, send: Send) -> tuple[int, str | None, int]:
    """Answer OPTIONS, or a method that the path does not have. Returns the status, the problem's code and the size of the body sent."""
    if method == "OPTIONS":
        response = framed(204, [(b"allow", allow), (b"x-request-id", request_id)], b"", is_head=False)
        return 204, None, await send_response(response, send)
    error = MethodNotAllowed(f"this path allows {allow.decode()}", headers={"allow": allow.decode()})
    response = of_problem(problems.of_request(error, request_id.decode()), request_id, is_head=method == "HEAD")
    return error.status, error.code, await send_response(response, send)


def _explained(plan: EndpointPlan, result: Result, elapsed_s: float, request_id: bytes, *, is_head: bool) -> Response:
    headers = [*_EXPLAIN_FIELDS, (b"x-request-id", request_id)]
    return framed(200, headers, explain.explain(plan, result, elapsed_s), is_head=is_head)


def _event_without_endpoint(
    method: str, path: str, answered: tuple[int, str | None, int], elapsed_s: float, request: trace.Trace
) -> ResponseEvent:
    status, code, sent_bytes = answered
    return ResponseEvent(None, method, path, status, code, None, elapsed_s, None, request.request_id, request.traceparent, sent_bytes)


def _raw_path(scope: Scope) -> bytes:
    """The path as encoded by the client, without the application's root path. Without a raw path from the server, `%2F` is already decoded."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        raw = str(scope["path"]).encode().replace(b"%", b"%25")
    root: str = scope.get("root_path", "")
    return raw.removeprefix(root.encode()) if root else raw


def with_cors(app: ASGIApp, cors: config.CORS | None) -> ASGIApp:
    """`app` behind CORS middleware with the document's rules; `app` itself when there are none."""
    if cors is None:
        return app
    return CORSMiddleware(
        app,
        allow_origins=cors.allow_origins,
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        allow_credentials=cors.allow_credentials,
        expose_headers=cors.expose_headers,
        max_age=int(cors.max_age_s),
    )
