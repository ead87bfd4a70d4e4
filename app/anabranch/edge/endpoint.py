"""Serves one endpoint of the document: guards, media type, parameters, body, steps, response, record. Knows plans and not how steps run."""

import logging
from time import monotonic, time
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from anabranch.core.certificate import certificate_of
from anabranch.core.forwarding import Arrival, TrustedProxies
from anabranch.edge import body, explain, problems
from anabranch.edge.compress import Compressor
from anabranch.edge.conditional import Conditional, Finish
from anabranch.edge.disconnect import WATCH_AFTER_S, ClientGone, run_watched
from anabranch.edge.negotiate import check_of
from anabranch.edge.parameters import fill
from anabranch.edge.request_id import Trace
from anabranch.edge.respond import Responder, Response, framed, of_problem, send_response
from anabranch.edge.reuse import ReusableResponder, explained
from anabranch.edge.scope import raw_path
from anabranch.edge.served import Served
from anabranch.edge.table import Values
from anabranch.engine.event import ResponseObserver
from anabranch.engine.outcome import Result
from anabranch.engine.request import ClientRequest
from anabranch.engine.run import Run
from anabranch.errors import AnabranchError, JournalError, RequestError
from anabranch.guard.stack import NO_GUARDS, Guards
from anabranch.journal.recorder import CompletedRequest, Recorder
from anabranch.plan.model import EndpointPlan

logger = logging.getLogger("anabranch.edge")

_EXPLAIN_FIELDS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class Answered(msgspec.Struct, frozen=True):
    """`result`: None when no step ran. `code`: of the problem, when a fault of the request or of the gateway decided the response."""

    response: Response
    result: Result | None
    code: str | None


class EndpointHandler:
    """Made once when its document is loaded: everything that a request needs is looked up here.

    `run`: runs the plan. `guards`: may reject a request. `recorder`: records the responses; None: nothing does. `observe`: called
    for each request; may be None. `watch_after_s`: age of a request from which its client is watched for a disconnect. `allow`: the methods that
    the path has besides this endpoint's. `proxies`: which ones are believed in what they say of the client; None: services are told nothing.
    """

    __slots__ = (
        "_check_accept",
        "_finish",
        "_proxies",
        "_receive_body",
        "_responder",
        "_run",
        "_watch_after_s",
        "guards",
        "observe",
        "plan",
        "recorder",
    )

    def __init__(
        self,
        plan: EndpointPlan,
        run: Run,
        *,
        guards: Guards = NO_GUARDS,
        recorder: Recorder | None = None,
        observe: ResponseObserver | None = None,
        watch_after_s: float = WATCH_AFTER_S,
        allow: bytes = b"",
        proxies: TrustedProxies | None = None,
    ) -> None:
        self.plan = plan
        self.guards = guards
        self.recorder = recorder
        self.observe = observe
        self._check_accept = check_of(plan)
        self._finish = _finish(plan)
        self._run = run
        self._receive_body = body.RECEIVERS["json" if plan.body is None else plan.body.kind]
        self._responder = (
            Responder(plan.response, numbers=plan.numbers, allow=allow)
            if plan.response.reuse is None
            else ReusableResponder(plan.response, plan.response.reuse, numbers=plan.numbers, allow=allow)
        )
        self._watch_after_s = watch_after_s
        self._proxies = proxies

    def request_of(
        self, scope: Scope, headers: dict[bytes, bytes], values: Values, trace: Trace, arrived: float, *, wants_notes: bool
    ) -> ClientRequest:
        """The request in a scope, before anything of it was checked. By position: a call by keywords takes twice as long."""
        plan, proxies = self.plan, self._proxies
        root_path: str = scope.get("root_path", "")
        return ClientRequest(
            trace.request_id,
            trace.traceparent,
            trace.extra,
            scope["method"],
            raw_path(scope),
            scope.get("query_string", b""),
            values,
            headers,
            plan,
            plan.new_frame(),
            arrived,
            arrived + plan.timeout_s,
            root_path,
            wants_notes,
            None
            if proxies is None
            else Arrival(headers, scope.get("client"), scope.get("scheme", "http"), root_path, proxies, certificate_of(scope)),
        )

    async def answer(self, request: ClientRequest, receive: Receive | None) -> Answered:
        """What the request is answered with. Raises ClientGone, and nothing else but a cancellation.

        `receive`: of the client's connection. None when nobody is at the other end: the request has its body, and is not cancelled.
        """
        result: Result | None = None
        plan = request.plan
        try:
            guards = self.guards
            for guard in guards.head:
                await guard(request)
            self._check_accept(request)
            fill(request)
            for guard in guards.parameters:
                await guard(request)
            if plan.body is not None:
                body.check_head(request, plan.body)
                if receive is not None:
                    await self._receive_body(request, plan.body, receive)
                body.read_body(request, plan.body)
            for guard in guards.body:
                await guard(request)
            run = self._run(request)
            result = await (run if receive is None else run_watched(receive, run, self._watch_after_s))
            response = _explained(request, result) if request.wants_notes else self._responder.respond(result, request)
        except ClientGone:
            raise
        except RequestError as error:
            return _failed(request, problems.of_request(error, request.id, request.prefix), error.code)
        except Exception:
            logger.exception("endpoint %s failed unexpectedly, request %s", plan.name, request.id.decode())
            return _failed(request, problems.internal(request.id, request.prefix), AnabranchError.code)
        return Answered(response, result, None)

    async def serve(self, request: ClientRequest, receive: Receive, send: Send, served: Served) -> None:
        """Answer the client, and record what it is answered."""
        try:
            answered = await self.answer(request, receive)
        except ClientGone:
            return
        response = answered.response
        served.result = answered.result
        served.code = answered.code
        recorder = self.recorder
        completed: CompletedRequest | None = None
        if recorder is not None and not request.wants_notes and recorder.is_wanted():
            completed = CompletedRequest(
                recorder, request, answered.result, answered.code, response.status, response.body, monotonic() - request.arrived, time()
            )
            if recorder.when == "before":
                try:
                    await recorder.commit(completed)
                except JournalError as error:
                    served.code = error.code
                    response = of_problem(problems.of_failure(error, request.id, request.prefix), is_head=request.method == "HEAD")
            elif recorder.when == "later":
                recorder.defer(completed)
        if self._finish is not None:
            response = await self._finish(response, request)
        served.status = response.status
        try:
            served.sent_bytes = await send_response(response, send)
        finally:
            if completed is not None and completed.recorder.when == "after":
                await completed.recorder.put(completed)


def _finish(plan: EndpointPlan) -> Finish | None:
    """What becomes of responses after they were recorded; None: nothing."""
    compression = plan.response.compression
    compress = None if compression is None else Compressor(compression).compress
    finish = Conditional(compress).finish if plan.is_conditional else compress
    return _telling(finish) if plan.limits else finish


def _telling(finish: Finish | None) -> Finish:
    """Also adds what guards tell the client, to whatever it is answered."""

    async def finish_and_tell(response: Response, request: ClientRequest) -> Response:
        if finish is not None:
            response = await finish(response, request)
        if request.told is not None:
            response.headers.extend(request.told)
        return response

    return finish_and_tell


def _failed(request: ClientRequest, problem: problems.ProblemResponse, code: str) -> Answered:
    return Answered(of_problem(problem, is_head=request.method == "HEAD"), None, code)


def _explained(request: ClientRequest, result: Result) -> Response:
    headers = [*_EXPLAIN_FIELDS, (b"x-request-id", request.id)]
    control = explained(request.plan.response.reuse, result, request)
    text = explain.explain(request.plan, result, monotonic() - request.arrived, control)
    return framed(200, headers, text, is_head=request.method == "HEAD")
