"""Calls that several requests share: who waits, who leaves, and what is left behind."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from anabranch.core.exchange import Answer
from anabranch.engine.outcome import Result
from anabranch.engine.run import Engine, Run
from anabranch.errors import ConnectError, StepError
from anabranch.plan.model import EndpointPlan
from anabranch.policy.call import Call
from tests.support.documents import plan_of
from tests.support.requests import request_of

WINDOW = "50ms"


class Service:
    """Answers a batch when it is let. `targets`: of the calls. `cancelled`: number of calls that were cancelled."""

    def __init__(self, failure: StepError | None = None) -> None:
        self.targets: list[str] = []
        self.cancelled = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._failure = failure

    async def __call__(self, call: Call) -> Answer:
        self.targets.append(call.request.target)
        self.asked.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failure is not None:
            raise self._failure
        return Answer(200, [], json.dumps([{"id": key} for key in parse_qs(urlsplit(call.request.target).query)["id"]]).encode())


def plan_with(**step: Any) -> EndpointPlan:
    batch = {"key": "{item}", "match": "id", "window": WINDOW, "size": 4}
    return plan_of(
        {
            "parameters": {"ids": {"in": "query", "schema": {"type": "array"}}},
            "steps": {"a": {"upstream": "a", "path": "/a", "query": {"id": "{batch}"}, "each": "{query.ids}", "batch": batch, **step}},
        }
    )


def ask(run: Run, plan: EndpointPlan, *ids: str) -> "asyncio.Task[Result]":
    request = request_of(plan)
    (parameter,) = plan.query_parameters
    assert parameter.slot is not None
    request.frame[parameter.slot] = list(ids)
    return asyncio.create_task(run(request))  # type: ignore[arg-type]  # it is a coroutine


def values(result: Result) -> Any:
    return None if result.body is None else [found and found["id"] for found in json.loads(result.body)["a"]]


async def test_requests_within_the_window_share_a_call() -> None:
    service, plan = Service(), plan_with()
    run = Engine({"a": service}).bind(plan)
    first, second = await asyncio.gather(ask(run, plan, "1", "2"), ask(run, plan, "2", "3"))
    assert (values(first), values(second)) == (["1", "2"], ["2", "3"])
    assert service.targets == ["/a?id=1&id=2&id=3"]
    later = await ask(run, plan, "1")
    assert (values(later), service.targets[1:]) == (["1"], ["/a?id=1"])


async def test_more_keys_than_a_call_takes_are_several_calls() -> None:
    service, plan = Service(), plan_with()
    result = await ask(Engine({"a": service}).bind(plan), plan, *"123456789")
    assert values(result) == list("123456789")
    assert [len(parse_qs(urlsplit(target).query)["id"]) for target in service.targets] == [4, 4, 1]


async def test_a_failure_is_that_of_all_who_wait() -> None:
    service, plan = Service(ConnectError("no")), plan_with()
    run = Engine({"a": service}).bind(plan)
    results = await asyncio.gather(ask(run, plan, "1"), ask(run, plan, "2", "3"))
    assert [(result.status, result.is_complete) for result in results] == [(502, False), (502, False)]
    assert len(service.targets) == 1


@pytest.mark.parametrize("is_sent", [True, False], ids=["while it is answered", "while it is open"])
async def test_a_request_that_leaves_takes_nothing_from_the_others(is_sent: bool) -> None:
    service, plan = Service(), plan_with()
    service.may_answer.clear()
    run = Engine({"a": service}).bind(plan)
    leaving, staying = ask(run, plan, "1"), ask(run, plan, "2")
    await (service.asked.wait() if is_sent else asyncio.sleep(0))
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    service.may_answer.set()
    assert values(await staying) == ["2"]
    assert (service.targets, service.cancelled) == (["/a?id=1&id=2"], 0)


@pytest.mark.parametrize("is_sent", [True, False], ids=["while it is answered", "while it is open"])
async def test_a_call_ends_with_the_last_who_waits(is_sent: bool) -> None:
    service, plan = Service(), plan_with()
    service.may_answer.clear()
    run = Engine({"a": service}).bind(plan)
    before = asyncio.all_tasks()
    leaving = [ask(run, plan, "1"), ask(run, plan, "2")]
    await (service.asked.wait() if is_sent else asyncio.sleep(0))
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert (len(service.targets), service.cancelled) == ((1, 1) if is_sent else (0, 0))
    service.may_answer.set()
    assert values(await ask(run, plan, "3")) == ["3"]
    assert service.targets[-1] == "/a?id=3"


async def test_who_waits_no_longer_than_its_own_timeout() -> None:
    service, plan = Service(), plan_with(timeout="100ms")
    service.may_answer.clear()
    result = await ask(Engine({"a": service}).bind(plan), plan, "1")
    assert (result.status, service.cancelled) == (504, 1)
