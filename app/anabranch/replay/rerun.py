"""Runs recorded requests again: by the handlers of their endpoints, with neither client nor server.

Offline the answers come from the records, and neither time, retries, breakers nor places play a part: what was recorded is what the policies
brought then. Functions of compute steps are called again. Knows nothing of files or of what the comparison is for.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic

from anabranch.compute.job import ComputePool
from anabranch.core.exchange import Answer
from anabranch.document.service import Service
from anabranch.edge import request_id
from anabranch.edge.endpoint import EndpointHandler
from anabranch.edge.percent import parse_query
from anabranch.edge.scope import join_headers
from anabranch.edge.table import RouteTable
from anabranch.engine.outcome import Outcome
from anabranch.engine.run import Engine
from anabranch.journal.record import Record
from anabranch.journal.redact import MASK
from anabranch.plan.model import DocumentPlan, EndpointPlan, StepPlan
from anabranch.plan.routes import RESERVED
from anabranch.policy.call import Call, Policy
from anabranch.replay.recompute import RecordedPool, local_pools
from anabranch.replay.recording import Recording
from anabranch.replay.replay import CannotReplay, ReplayedResponse, Replayer, is_body_redacted, request_body


class Rerun:
    """Runs recorded requests on the endpoints of `plan` by `engine`. One after the other, or side by side where the engine allows it."""

    def __init__(self, plan: DocumentPlan, engine: Engine) -> None:
        routes = [(endpoint.method, endpoint.path, EndpointHandler(endpoint, engine.bind(endpoint))) for endpoint in plan.endpoints]
        self._table = RouteTable(routes, reserved=RESERVED)

    async def reply(self, record: Record, *, is_harmless: bool = False) -> ReplayedResponse:
        """What the request of `record` is answered with now.

        `is_harmless`: only where every call of the endpoint may be made again. Raises CannotReplay.
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
        _check(handler.plan, record, is_harmless=is_harmless)
        lines = [(name.encode(), value.encode("latin-1")) for name, value in recorded.headers.items()]
        lines.append((b"x-request-id", recorded.id.encode()))
        if body:
            lines.append((b"content-length", str(len(body)).encode()))
            if "content-type" not in recorded.headers:
                lines.append((b"content-type", b"application/json"))
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
        answered = await handler.answer(request, None)
        result = answered.result
        return ReplayedResponse(
            handler.plan.name, answered.response.status, None if result is None else result.is_complete, answered.response.body
        )


@asynccontextmanager
async def offline(plan: DocumentPlan, replayer: Replayer) -> AsyncIterator["Offline"]:
    """Replays against the records themselves, without any upstream or cluster. Functions of compute steps are run as they are now."""
    async with local_pools(plan.pools) as pools:
        yield Offline(plan, replayer, pools)


class Offline:
    """One record at a time: its answers stand for the upstreams."""

    def __init__(self, plan: DocumentPlan, replayer: Replayer, pools: Mapping[str, ComputePool]) -> None:
        self._replayer = replayer
        self._current: Recording | None = None
        self._step: ContextVar[str] = ContextVar("step")
        policies = {name: self._policy(name) for name in plan.upstreams}
        computes = {name: RecordedPool(pool, self._recording) for name, pool in pools.items()}
        self._rerun = Rerun(plan, Engine(policies, self._around, computes))

    async def replay(self, record: Record) -> None:
        """Run it again, and let the replayer compare."""
        recording = self._current = self._replayer.recording(record)
        try:
            reply = await self._rerun.reply(record)
        except CannotReplay as error:
            self._replayer.skip(record, str(error))
        else:
            self._replayer.look(record, reply, recording)

    def _recording(self) -> Recording:
        assert self._current is not None
        return self._current

    def _policy(self, upstream: str) -> Policy:
        async def ask(call: Call) -> Answer:
            call.attempts += 1
            answer, call.stale_age_s = await self._recording().ask(upstream, call.request, self._step.get(), call.stale)
            return answer

        return ask

    async def _around(self, step: StepPlan, run: Callable[[StepPlan], Awaitable[Outcome]]) -> Outcome:
        """Steps may make the same call: the policies must know which one they work for."""
        self._step.set(step.name)
        return await run(step)


class Live:
    """One record at a time, on the real upstreams of an open service, where no call can do harm by being made again."""

    def __init__(self, service: Service, replayer: Replayer) -> None:
        self._replayer = replayer
        self._rerun = Rerun(service.plan, service.engine)

    async def replay(self, record: Record) -> None:
        """Run it again, and let the replayer compare."""
        try:
            reply = await self._rerun.reply(record, is_harmless=True)
        except CannotReplay as error:
            self._replayer.skip(record, str(error))
        else:
            self._replayer.look(record, reply, None)


def _check(plan: EndpointPlan, record: Record, *, is_harmless: bool) -> None:
    """Raise CannotReplay for a request of which something is not in the journal that the endpoint wants to know."""
    if is_harmless and not all(step.is_idempotent for step in plan.steps if step.upstream):
        raise CannotReplay("a call of it is not idempotent (`idempotent: true` on the call says that it may be made again)")
    if is_harmless and is_body_redacted(record):
        raise CannotReplay("a value in the body of the request was redacted, and no service should be sent what stands there instead")
    asked = record.request
    rule = plan.source.journal
    listed = () if isinstance(rule, bool) else {name.lower() for name in rule.headers}
    for parameter in plan.header_parameters:
        name = parameter.name.lower()
        value = asked.headers.get(name)
        if value == MASK:
            raise CannotReplay(f"the header {name} was redacted")
        if value is None and name not in listed and (parameter.is_required or parameter.slot is not None) and record.status != 400:
            raise CannotReplay(f"the header {name} was not kept (`journal: {{headers: [{name}]}}` keeps it)")
    if MASK in asked.query:
        values = parse_query(asked.query.encode("latin-1"))
        for parameter in plan.query_parameters:
            if MASK in (values.get(parameter.name) or ()):
                raise CannotReplay(f"the query parameter {parameter.name} was redacted")
