"""Runs recorded requests again: by the handlers of their endpoints, with neither client nor server.

Offline, the upstreams' answers come from the records. Time, retries, breakers and slots play no part: the record holds what the policies
produced. Functions of compute steps are called again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Final

import msgspec

from anabranch.compute.job import ComputePool
from anabranch.config.base import ALL
from anabranch.core.exchange import Answer
from anabranch.core.percent import parse_query
from anabranch.core.principal import Principal
from anabranch.document.service import Service
from anabranch.edge import request_id
from anabranch.edge.endpoint import EndpointHandler
from anabranch.edge.scope import join_headers
from anabranch.edge.table import RouteTable
from anabranch.engine.outcome import Outcome
from anabranch.engine.request import ClientRequest
from anabranch.engine.run import Engine
from anabranch.errors import Forbidden, NotAcceptable, Overloaded, RateLimited, Unauthenticated, Unavailable
from anabranch.journal.record import Record
from anabranch.journal.redact import MASK
from anabranch.plan.kinds.call import forwarded_query
from anabranch.plan.model import DocumentPlan, EndpointPlan, StepPlan
from anabranch.plan.routes import RESERVED
from anabranch.policy.call import Call, Policy
from anabranch.replay.recompute import RecordedPool, local_pools
from anabranch.replay.recording import Recording
from anabranch.replay.replay import CannotReplay, ReplayedResponse, Replayer, has_files, is_body_redacted, request_body

_OF_GUARDS: Final = frozenset(error.code for error in (Unauthenticated, Unavailable, Forbidden, RateLimited, Overloaded))


class Rerun:
    """Runs recorded requests on the endpoints of `plan` by `engine`. One after the other, or side by side where the engine allows it."""

    def __init__(self, plan: DocumentPlan, engine: Engine) -> None:
        routes = [(endpoint.method, endpoint.path, EndpointHandler(endpoint, engine.bind(endpoint))) for endpoint in plan.endpoints]
        self._table = RouteTable(routes, reserved=RESERVED)

    async def run(self, record: Record, *, is_live: bool = False) -> ReplayedResponse:
        """Run the request of `record` and return its response.

        `is_live`: the calls go to real services, so every call of the endpoint must be idempotent. Raises CannotReplay.
        """
        recorded = record.request
        body = request_body(record)
        path = recorded.path.encode("latin-1")
        found = self._table.match(path)
        if found is None:
            return ReplayedResponse(None, 404, None, b"")
        leaf, values = found
        handler = leaf.methods.get(recorded.method)
        if handler is None:
            return ReplayedResponse(None, 405, None, b"")
        _check_replayable(handler.plan, record, is_live=is_live)
        lines = [(name.encode(), value.encode("latin-1")) for name, value in recorded.headers.items()]
        lines.append((b"x-request-id", recorded.id.encode()))
        if body:
            lines.append((b"content-length", str(len(body)).encode()))
            if "content-type" not in recorded.headers and handler.plan.body is not None:
                lines.append((b"content-type", handler.plan.body.media_type))
        scope = {
            "method": recorded.method,
            "path": recorded.path,
            "raw_path": path,
            "query_string": recorded.query.encode("latin-1"),
            "headers": lines,
        }
        headers = join_headers(lines)
        request = handler.request_of(scope, headers, values, request_id.read(headers), monotonic(), wants_notes=False)
        request.body = body
        _identify(request, record)
        answered = await handler.answer(request, None)
        result = answered.result
        return ReplayedResponse(
            handler.plan.name, answered.response.status, None if result is None else result.is_complete, answered.response.body
        )


@asynccontextmanager
async def offline(plan: DocumentPlan, replayer: Replayer) -> AsyncIterator["Offline"]:
    """Replay against the records themselves, without any upstream or cluster. Functions of compute steps run with their current code."""
    async with local_pools(plan.pools) as pools:
        yield Offline(plan, replayer, pools)


class Offline:
    """Replays one record at a time, with its recorded answers in place of the upstreams."""

    def __init__(self, plan: DocumentPlan, replayer: Replayer, pools: Mapping[str, ComputePool]) -> None:
        self._replayer = replayer
        self._current: Recording | None = None
        self._step: ContextVar[str] = ContextVar("step")
        policies = {name: self._policy(name) for name in plan.upstreams}
        computes = {name: RecordedPool(pool, self._recording) for name, pool in pools.items()}
        self._rerun = Rerun(plan, Engine(policies, self._around, computes))

    async def replay(self, record: Record) -> None:
        """Run the record's request again and compare the responses."""
        recording = self._current = self._replayer.recording(record)
        try:
            response = await self._rerun.run(record)
        except CannotReplay as error:
            self._replayer.skip(record, str(error))
        else:
            self._replayer.compare(record, response, recording)

    def _recording(self) -> Recording:
        assert self._current is not None
        return self._current

    def _policy(self, upstream: str) -> Policy:
        async def play_back(call: Call) -> Answer:
            call.attempts += 1
            answer, call.stale_age_s = await self._recording().call(upstream, call.request, self._step.get(), call.caching)
            if call.judge is not None and answer.status in call.success:
                await call.judge(answer)
            return answer

        return play_back

    async def _around(self, step: StepPlan, run: Callable[[StepPlan], Awaitable[Outcome]]) -> Outcome:
        """Note which step runs: several steps may make the same call."""
        self._step.set(step.name)
        return await run(step)


class Live:
    """Replays one record at a time against the real upstreams of an open service. Only endpoints whose calls are all idempotent."""

    def __init__(self, service: Service, replayer: Replayer) -> None:
        self._replayer = replayer
        self._rerun = Rerun(service.plan, service.engine)

    async def replay(self, record: Record) -> None:
        """Run the record's request again and compare the responses."""
        try:
            response = await self._rerun.run(record, is_live=True)
        except CannotReplay as error:
            self._replayer.skip(record, str(error))
        else:
            self._replayer.compare(record, response, None)


def _identify(request: ClientRequest, record: Record) -> None:
    """Tell the request who its client was."""
    access, kept = request.plan.access, record.request.principal
    if access is None or access.fill is None or kept is None:
        return
    known = msgspec.json.decode(kept.to_bytes(), type=_Known)
    request.principal = Principal(known.sub, known.name, known.via, bytes(known.claims))
    access.fill(request.principal.value, request.frame)


class _Known(msgspec.Struct):
    """What a record says of a client."""

    sub: str
    name: str
    via: str
    claims: msgspec.Raw


def _check_replayable(plan: EndpointPlan, record: Record, *, is_live: bool) -> None:
    """Raise CannotReplay when the journal lacks part of the request that the endpoint needs."""
    if is_live and not all(step.operation.is_idempotent for step in plan.steps if step.upstream):
        raise CannotReplay("one of its calls is not idempotent (set `idempotent: true` on the call if it may be repeated)")
    if is_live and is_body_redacted(record):
        raise CannotReplay("the request body has a redacted value, and `***` must not be sent to a service")
    if not is_live and _lacks_failures(plan, record):
        raise CannotReplay("the response shows what a service answered to a failed call, which was not kept (`bodies: steps` keeps JSON)")
    if is_live and plan.body is not None and plan.body.files_slot is not None and has_files(record):
        raise CannotReplay("the request has uploaded files, of which the journal keeps only size and digest")
    if record.failure in _OF_GUARDS and not record.steps:
        raise CannotReplay("it was rejected before anything ran, by a guard that is not asked again")
    if plan.access is not None and plan.access.fill is not None and record.request.principal is None:
        raise CannotReplay("the endpoint refers to its client, which was not recorded")
    request = record.request
    if record.failure == NotAcceptable.code and request.headers.get("accept") in (None, MASK):
        raise CannotReplay("the header accept was not kept (`journal: {headers: [accept]}` keeps it)")
    listed = () if plan.record is None else plan.record.headers
    for parameter in plan.header_parameters:
        name = parameter.name.lower()
        value = request.headers.get(name)
        if value == MASK:
            raise CannotReplay(f"the header {name} was redacted")
        if value is None and name not in listed and (parameter.is_required or parameter.slot is not None) and record.status != 400:
            raise CannotReplay(f"the header {name} was not kept (`journal: {{headers: [{name}]}}` keeps it)")
    if (cookies := plan.cookie_parameters) and record.status != 400:
        value = request.headers.get("cookie")
        if value == MASK:
            raise CannotReplay("the header cookie was redacted")
        if value is None and "cookie" not in listed and any(one.is_required or one.slot is not None for one in cookies):
            raise CannotReplay("the header cookie was not kept (`journal: {headers: [cookie]}` keeps it)")
    if MASK in request.query:
        values = parse_query(request.query.encode("latin-1"))
        for parameter in plan.query_parameters:
            if MASK in (values.get(parameter.name) or ()):
                raise CannotReplay(f"the query parameter {parameter.name} was redacted")
        redacted = {name for name, texts in values.items() if MASK in texts}
        if is_live and any(ALL in names or not redacted.isdisjoint(names) for names in map(forwarded_query, plan.steps) if names):
            raise CannotReplay("a query parameter was redacted, and `***` must not be forwarded to a service")


def _lacks_failures(plan: EndpointPlan, record: Record) -> bool:
    """Whether the response shows a service's failure as it came, and the record does not have it."""
    if plan.response.failures is None and not plan.response.passing:
        return False
    failed = [step for step in record.steps if step.failure is not None and step.status is not None]
    return any(not step.body.is_kept if step.body is not None else not step.headers for step in failed)
