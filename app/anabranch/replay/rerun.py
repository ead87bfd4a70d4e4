"""Runs recorded requests again, through the data plane as if a client had sent them, without a server.

Offline, the upstreams' answers come from the records. Time, retries, breakers and slots play no part: the record holds what the policies
produced. Functions of compute steps are called again.
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

# Longer than any request takes: there is no client that could disconnect.
_NO_WATCH_S: Final = 1e6
_JSON: Final = (b"content-type", b"application/json")


class Rerun:
    """Sends recorded requests to the endpoints of `plan`, which `run` executes. One at a time, or concurrently if `run` allows it."""

    def __init__(self, plan: DocumentPlan, run: Run) -> None:
        self._plane = DataPlane(run, watch_after_s=_NO_WATCH_S)
        self._plane.load(plan)

    async def run(self, record: Record, *, is_live: bool = False) -> ReplayedResponse:
        """Run the request of `record` and return its response.

        `is_live`: the calls go to real services, so every call of the endpoint must be idempotent. Raises CannotReplay.
        """
        request = record.request
        body = request_body(record)
        headers = [
            (b"x-request-id", request.id.encode()),
            *((name.encode(), value.encode("latin-1")) for name, value in request.headers.items()),
        ]
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
            if "content-type" not in request.headers:
                headers.append(_JSON)
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "headers": headers,
        }
        match, found = self._plane.matches(scope)
        if match is not Match.FULL:
            return ReplayedResponse(None, 404, None, b"")
        plan = self._plan_of(found, request.method)
        if plan is None:
            return ReplayedResponse(None, 405, None, b"")
        _check_replayable(plan, record, is_live=is_live)
        exchange = _Exchange(body)
        await self._plane.handle({**scope, **found}, exchange.receive, exchange.send)
        return ReplayedResponse(plan.name, exchange.status, exchange.is_complete, exchange.body)

    def _plan_of(self, found: Mapping[str, Any], method: str) -> EndpointPlan | None:
        ((_, leaf, _),) = found.values()
        served = leaf.methods.get(method)
        plan: EndpointPlan | None = None if served is None else served.plan
        return plan


class _Exchange:
    """The client's side of one request."""

    def __init__(self, body: bytes) -> None:
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self.status = 0
        self.is_complete: bool | None = None
        self.body = b""

    async def receive(self) -> Message:
        message, self._request = self._request, None
        if message is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("this future is never resolved")
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
        self._rerun = Rerun(plan, Engine(policies, self._around, computes).run)

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
            answer, call.stale_age_s = await self._recording().call(upstream, call.request, self._step.get(), call.stale)
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
        self._rerun = Rerun(service.plan, service.engine.run)

    async def replay(self, record: Record) -> None:
        """Run the record's request again and compare the responses."""
        try:
            response = await self._rerun.run(record, is_live=True)
        except CannotReplay as error:
            self._replayer.skip(record, str(error))
        else:
            self._replayer.compare(record, response, None)


def _check_replayable(plan: EndpointPlan, record: Record, *, is_live: bool) -> None:
    """Raise CannotReplay when the journal lacks part of the request that the endpoint needs."""
    if is_live and not all(step.is_idempotent for step in plan.steps if step.upstream):
        raise CannotReplay("one of its calls is not idempotent (set `idempotent: true` on the call if it may be repeated)")
    if is_live and is_body_redacted(record):
        raise CannotReplay("the request body has a redacted value, and `***` must not be sent to a service")
    request = record.request
    rule = plan.source.journal
    listed = () if isinstance(rule, bool) else {name.lower() for name in rule.headers}
    for parameter in plan.header_parameters:
        name = parameter.name.lower()
        value = request.headers.get(name)
        if value == MASK:
            raise CannotReplay(f"the header {name} was redacted")
        if value is None and name not in listed and (parameter.is_required or parameter.slot is not None) and record.status != 400:
            raise CannotReplay(f"the header {name} was not kept (`journal: {{headers: [{name}]}}` keeps it)")
    if MASK in request.query:
        values = parse_query(request.query.encode("latin-1"))
        for parameter in plan.query_parameters:
            if MASK in (values.get(parameter.name) or ()):
                raise CannotReplay(f"the query parameter {parameter.name} was redacted")
