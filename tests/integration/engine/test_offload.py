"""Large answers through a complete service: read and merged in a worker process, with the same bytes as on the loop, which stays free."""

import asyncio
from functools import cache
from time import monotonic
from typing import Any

import orjson
import pytest

from anabranch.compute.offload import Offload
from anabranch.compute.processes.pool import ProcessPool
from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.core.exchange import Answer
from anabranch.document.service import Service
from anabranch.engine.outcome import Result
from anabranch.engine.run import Engine
from anabranch.errors import InvalidFormat, ProcessingTimeout, WorkerLost
from anabranch.jsontext.order import PLAIN_FROM
from anabranch.plan.compile import compile_document
from anabranch.plan.kinds.call import CallPlan
from anabranch.plan.model import DocumentPlan
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.requests import request_of


@cache
def large() -> bytes:
    """A body that is processed in another process."""
    rows = [{"id": number, "name": f"row {number}", "x": [number, number * 0.5]} for number in range(110_000)]
    return orjson.dumps({"total": len(rows), "rows": rows})


def plan_for(url: str) -> DocumentPlan:
    """A document with every kind of reading and merging, on one upstream."""
    large = {"upstream": "big", "path": "/large"}
    small = {"upstream": "big", "path": "/small"}

    def endpoint(path: str, timeout: str = "60s", **more: Any) -> dict[str, Any]:
        return {"path": path, "timeout": timeout, **more}

    endpoints = [
        endpoint("/group", steps={"a": large, "b": {"upstream": "big", "path": "/small", "query": {"n": "{a.total}"}}}),
        endpoint("/pick", steps={"a": {**large, "pick": ["rows.id"]}}),
        endpoint("/drop", steps={"a": {**large, "drop": ["rows.x"]}}),
        endpoint("/deep", steps={"a": large, "b": {"upstream": "big", "path": "/small"}}, response={"merge": "deep"}),
        endpoint(
            "/failures",
            steps={"a": large, "b": {"upstream": "big", "path": "/refused"}},
            response={"merge": "flat", "show_failures": True},
        ),
        endpoint("/concat", steps={"a": {**large, "target": "rows"}, "b": {**small, "target": "rows"}}, response={"merge": "concat"}),
        endpoint("/broken", steps={"a": {"upstream": "big", "path": "/broken", "required": True}}),
        endpoint("/page", "20s", steps={"a": {**large, "decode": "html", "select": {"last": "p:last-of-type"}}}),
        endpoint("/late", "50ms", steps={"a": {**large, "required": True}}),
    ]
    document = {"version": 1, "upstreams": {"big": {"url": url, "max_response": "64MiB"}}, "endpoints": endpoints}
    problems = Problems()
    plan = compile_document(Document.model_validate(document), problems)
    assert not problems.errors, problems.errors
    return plan


def answer(body: bytes) -> dict[str, Any]:
    return {"body": body.decode(), "headers": {"content-type": "application/json"}}


async def ask(service: Service, path: str, engine: Engine | None = None) -> Result:
    plan = next(plan for plan in service.plan.endpoints if plan.path == path)
    return await (engine or service.engine).bind(plan)(request_of(plan))


async def test_large_answers_are_the_same_in_a_worker_and_on_the_loop() -> None:
    assert len(large()) > PLAIN_FROM
    routes = {
        "/large": answer(large()),
        "/small": answer(b'{"rows":[7],"n":1}'),
        "/broken": answer(large()[:-1]),
        "/refused": {"status": 409},
    }
    async with ScriptedUpstream(routes) as upstream, Service(plan_for(upstream.url)) as service:
        on_loop = Engine(service.upstreams.policies)
        await ask(service, "/late")
        for path in ("/group", "/pick", "/drop", "/deep", "/concat"):
            far = await ask(service, path)
            near = await ask(service, path, on_loop)
            assert far.is_complete, far.outcomes[0].failure
            assert far.body == near.body
        failures = await ask(service, "/failures")
        assert failures.body is not None
        assert failures.body.startswith(large()[:-1])
        assert orjson.loads(failures.body[len(large()) :].replace(b'"failures"', b'{"failures"', 1))["failures"][0]["status"] == 409
        assert service.offload._pool is not None
        broken = await ask(service, "/broken")
        assert broken.failure is not None
        assert (broken.failure.code, broken.status) == ("invalid_json", 502)
    assert len(asyncio.all_tasks()) == 1


async def test_small_answers_start_no_process() -> None:
    async with (
        ScriptedUpstream({"/large": answer(b'{"total":1}'), "/small": answer(b"{}")}) as upstream,
        Service(plan_for(upstream.url)) as service,
    ):
        assert (await ask(service, "/group")).body == b'{"a":{"total":1},"b":{}}'
        assert service.offload._opening is None


async def test_without_a_worker_the_loop_reads_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Offload) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(Offload, "_open", refuse)
    async with ScriptedUpstream({"/large": answer(large())}) as upstream, Service(plan_for(upstream.url)) as service:
        result = await ask(service, "/pick")
        assert result.is_complete


PAGE = b"<p>1</p>" * 20_000 + b"<p>2</p>"


async def test_without_a_worker_a_thread_reads_other_formats_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Offload) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(Offload, "_open", refuse)
    async with ScriptedUpstream({"/large": {"body": PAGE.decode()}}) as upstream, Service(plan_for(upstream.url)) as service:
        assert (await ask(service, "/page")).body == b'{"a":{"last":"2"}}'
        (plan,) = (plan for plan in service.plan.endpoints if plan.path == "/page")
        operation = plan.steps[0].operation
        assert isinstance(operation, CallPlan)
        assert operation.decoding is not None
        with pytest.raises(ProcessingTimeout):
            await service.offload.decode(operation.decoding, Answer(200, [], PAGE), "a", monotonic() + 0.001)


async def test_a_body_that_ends_its_process_is_never_read_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(self: ProcessPool, job: object, timings: object) -> None:
        raise WorkerLost("gone")

    monkeypatch.setattr(ProcessPool, "run", lose)
    async with ScriptedUpstream({"/large": {"body": PAGE.decode()}}) as upstream, Service(plan_for(upstream.url)) as service:
        (outcome,) = (await ask(service, "/page")).outcomes
        assert isinstance(outcome.failure, InvalidFormat)
        assert outcome.failure.detail == "the process that read the body has crashed"
