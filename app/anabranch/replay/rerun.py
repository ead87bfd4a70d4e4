"""Runs recorded requests again: through the data plane as if a client had sent them, with no server between.

Offline the answers come from the records, and neither time, retries, breakers nor places play a part: what was recorded is what the policies
brought then. Functions of compute steps are called again. Knows nothing of files or of what the comparison is for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

from starlette.routing import Match
from starlette.types import Message

from anabranch.compute.job import ComputePool
from anabranch.core.exchange import Answer
from anabranch.document.service import Service
from anabranch.edge.dataplane import DataPlane, Run
from anabranch.edge.percent import parse_query
from anabranch.engine.outcome import Outcome
from anabranch.engine.run import Engine
from anabranch.journal.record import Record
from anabranch.journal.redact import MASK
from anabranch.plan.model import DocumentPlan, EndpointPlan, StepPlan
from anabranch.policy.call import Call, Policy
from anabranch.replay.recompute import RecordedPool, local_pools
from anabranch.replay.recording import Recording
from anabranch.replay.replay import CannotReplay, ReplayedResponse, Replayer, is_body_redacted, request_body

# Longer than any request takes: there is no client that could leave.
_NO_WATCH_S: Final = 1e6
_JSON: Final = (b"content-type", b"application/json")


class Rerun:
    """Sends recorded requests to the endpoints of `plan`, by `run`. One after the other, or side by side where `run` allows it."""

    def __init__(self, plan: DocumentPlan, run: Run) -> None:
        self._plane = DataPlane(run, watch_after_s=_NO_WATCH_S)
        self._plane.load(plan)

    async def reply(self, record: Record, *, is_harmless: bool = False) -> ReplayedResponse:
        """What the request of `record` is answered with now.

        `is_harmless`: only where every call of the endpoint may be made again. Raises CannotReplay.
        """
        asked = record.request
        body = request_body(record)
        headers = [
            (b"x-request-id", asked.id.encode()),
            *((name.encode(), value.encode("latin-1")) for name, value in asked.headers.items()),
        ]
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
            if "content-type" not in asked.headers:
                headers.append(_JSON)
        scope: dict[str, Any] = {
            "type": "http",
            "method": asked.method,
            "path": asked.path,
            "raw_path": asked.path.encode("latin-1"),
            "query_string": asked.query.encode("latin-1"),
            "headers": headers,
        }
        match, found = self._plane.matches(scope)
        if match is not Match.FULL:
            return ReplayedResponse(None, 404, None, b"")
        plan = self._plan_of(found, asked.method)
        if plan is None:
            return ReplayedResponse(None, 405, None, b"")
        _check(plan, record, is_harmless=is_harmless)
        exchange = _Exchange(body)
        await self._plane.handle({**scope, **found}, exchange.receive, exchange.send)
        return ReplayedResponse(plan.name, exchange.status, exchange.is_complete, exchange.body)

    def _plan_of(self, found: Mapping[str, Any], method: str) -> EndpointPlan | None:
        ((_, leaf, _),) = found.values()
        served = leaf.methods.get(method)
        plan: EndpointPlan | None = None if served is None else served.plan
        return plan


class _Exchange:
    """The client's end of one request."""

    def __init__(self, body: bytes) -> None:
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self.status = 0
        self.is_complete: bool | None = None
        self.body = b""

    async def receive(self) -> Message:
        message, self._request = self._request, None
        if message is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("a future that nobody resolves")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            complete = next((value for name, value in message["headers"] if name == b"gateway-complete"), None)
            self.is_complete = None if complete is None else complete == b"?1"
        else:
            self.body += message.get("body", b"")


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
        self._rerun = Rerun(plan, Engine(policies, self._around, computes).run)

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
        self._rerun = Rerun(service.plan, service.engine.run)

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
