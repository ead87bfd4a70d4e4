"""Conditions as the engine runs them: what is not called, what the others get instead, and what the response says of it."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from anabranch.compute.job import Job, JobResult, JobTimings, PoolCounters
from anabranch.core.exchange import Answer
from anabranch.engine.outcome import Outcome, Result
from anabranch.engine.run import Engine
from anabranch.errors import ConditionFailed, ConnectError, DependencyFailed, NothingAnswered, StepError
from anabranch.plan.model import StepPlan
from anabranch.policy.call import Call
from tests.support.documents import plan_of
from tests.support.requests import request_of


class Service:
    """Answers each path with what the test says, or with the path itself. `seen`: the paths that were called. `turns`: of the event loop that a
    path takes longer than the others."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.seen: list[str] = []
        self.turns: dict[str, int] = {}
        self._answers = answers

    async def __call__(self, call: Call) -> Answer:
        path = call.request.target
        self.seen.append(path)
        await asyncio.sleep(0)
        for _ in range(self.turns.get(path, 0)):
            await asyncio.sleep(0)
        found = self._answers.get(path, {"path": path})
        if isinstance(found, StepError):
            raise found
        return Answer(200, [], json.dumps(found).encode())


class Pool:
    """Answers every job with 7. `jobs`: all that came."""

    name = "thread"
    kind: Any = "thread"
    counters = PoolCounters(1)

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def run(self, job: Job, clock: JobTimings) -> JobResult:
        self.jobs.append(job)
        return JobResult(b"7", 0.0, 0.0)

    async def aopen(self) -> None: ...

    async def aclose(self) -> None: ...


def steps(**named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {**({} if "compute" in step else {"upstream": "a", "path": f"/{name}"}), **step} for name, step in named.items()}


class Run:
    """One finished request with the parameter `on`. `traced`: the outcome of each step as a trace sees it."""

    def __init__(self, named: dict[str, dict[str, Any]], answers: dict[str, Any] | None, response: dict[str, Any], *, on: bool) -> None:
        self.service = Service(answers or {})
        self.pool = Pool()
        self.traced: dict[str, Outcome] = {}
        parameters = {"on": {"in": "query", "schema": {"type": "boolean"}}}
        self._plan = plan_of({"parameters": parameters, "steps": named, "response": response})
        self._on = on

    async def go(self) -> Result:
        async def around(step: StepPlan, run: Any) -> Outcome:
            outcome: Outcome = await run(step)
            self.traced[step.name] = outcome
            return outcome

        request = request_of(self._plan)
        for parameter in self._plan.query_parameters:
            if parameter.slot is not None:
                request.frame[parameter.slot] = self._on
        before = asyncio.all_tasks()
        result = await Engine({"a": self.service}, around, {"thread": self.pool}).bind(self._plan)(request)
        assert asyncio.all_tasks() == before
        return result


async def run(
    named: dict[str, dict[str, Any]], answers: dict[str, Any] | None = None, *, on: bool = False, **response: Any
) -> tuple[Result, Run]:
    made = Run(named, answers, response, on=on)
    return await made.go(), made


def codes(result: Result) -> dict[str, str | None]:
    return {outcome.step: None if outcome.failure is None else outcome.failure.code for outcome in result.outcomes}


ON = "{query.on} == true"


async def test_a_step_runs_when_its_condition_holds() -> None:
    result, made = await run(steps(x={"when": ON}, y={}), on=True)
    assert json.loads(result.body or b"") == {"x": {"path": "/x"}, "y": {"path": "/y"}}
    assert (result.is_complete, tuple(result.left_out)) == (True, ())
    assert sorted(made.service.seen) == ["/x", "/y"]


async def test_a_step_is_left_out_when_its_condition_does_not_hold() -> None:
    result, made = await run(steps(x={"when": ON}, y={}))
    assert json.loads(result.body or b"") == {"y": {"path": "/y"}}
    assert (result.status, result.is_complete, result.failure) == (200, True, None)
    assert tuple(result.left_out) == ("x",)
    assert codes(result) == {"y": None}
    assert made.service.seen == ["/y"]
    assert (made.traced["x"].left_out, made.traced["x"].raw, made.traced["x"].failure, made.traced["x"].attempts) == (
        "left_out",
        None,
        None,
        0,
    )


async def test_a_function_that_is_left_out_does_not_run() -> None:
    named = steps(f={"compute": "m:f", "when": ON}, y={})
    result, made = await run(named)
    assert json.loads(result.body or b"") == {"y": {"path": "/y"}}
    assert (made.pool.jobs, tuple(result.left_out)) == ([], ("f",))
    result, made = await run(named, on=True)
    assert json.loads(result.body or b"")["f"] == 7
    assert len(made.pool.jobs) == 1


async def test_a_condition_may_be_about_another_step() -> None:
    named = steps(flight={}, gate={"when": "{flight.open} == true", "path": "/gate/{flight.id}"})
    result, made = await run(named, {"/flight": {"open": True, "id": 1}})
    assert made.service.seen == ["/flight", "/gate/1"]
    result, made = await run(named, {"/flight": {"open": False, "id": 1}})
    assert made.service.seen == ["/flight"]
    assert result.body == b'{"flight":{"open": false, "id": 1}}'


async def test_what_refers_to_a_step_that_is_left_out_is_left_out_all_the_way() -> None:
    named = steps(
        x={"when": ON}, y={"path": "/y/{x.id}"}, z={"path": "/z/{y.id}/{ok.id}", "required": True}, q={"when": "{x.id} == null"}, ok={}
    )
    result, made = await run(named, {"/ok": {"id": 1}})
    assert result.body == b'{"ok":{"id": 1}}'
    assert (result.is_complete, result.status, tuple(result.left_out)) == (True, 200, ("x", "y", "z", "q"))
    assert made.service.seen == ["/ok"]


async def test_a_required_step_that_is_left_out_is_no_error() -> None:
    result, _ = await run(steps(x={"when": ON, "required": True}, y={"required": True}))
    assert (result.status, result.is_complete, result.body) == (200, True, b'{"y":{"path": "/y"}}')


async def test_a_default_stands_in_for_a_step_that_is_left_out() -> None:
    named = steps(x={"when": ON, "default": {"id": 7}}, y={"path": "/y/{x.id}"}, z={"when": ON, "default": None})
    result, made = await run(named)
    assert json.loads(result.body or b"") == {"x": {"id": 7}, "y": {"path": "/y/7"}, "z": None}
    assert (result.is_complete, tuple(result.left_out)) == (True, ("x", "z"))
    assert made.service.seen == ["/y/7"]


async def test_the_default_of_a_dependent_stands_too() -> None:
    result, _ = await run(steps(x={"when": ON}, y={"path": "/y/{x.id}", "default": []}, z={"path": "/z/{y.0}", "default": 0}, ok={}))
    assert json.loads(result.body or b"") == {"y": [], "z": 0, "ok": {"path": "/ok"}}
    # y has a value for z to look into, and z finds nothing there.
    assert (result.is_complete, codes(result), tuple(result.left_out)) == (False, {"z": "missing_reference", "ok": None}, ("x", "y"))


@pytest.mark.parametrize("required", [False, True])
async def test_a_condition_that_cannot_be_evaluated_fails_its_step(required: bool) -> None:
    result, made = await run(steps(x={"when": "{query.on} > 1", "required": required}, y={}))
    assert isinstance(next(outcome.failure for outcome in result.outcomes if outcome.step == "x"), ConditionFailed)
    assert not result.is_complete
    assert "/x" not in made.service.seen
    if required:
        assert (result.status, result.body) == (502, None)
        assert isinstance(result.failure, ConditionFailed)
    else:
        assert (result.status, json.loads(result.body or b"")) == (200, {"x": None, "y": {"path": "/y"}})


async def test_a_condition_about_a_failed_step_is_not_evaluated() -> None:
    result, made = await run(steps(x={}, y={"when": "{x.id} == null"}, ok={}), {"/x": ConnectError("refused")})
    failure = next(outcome.failure for outcome in result.outcomes if outcome.step == "y")
    assert isinstance(failure, DependencyFailed)
    assert sorted(made.service.seen) == ["/ok", "/x"]


async def test_a_hidden_step_that_is_left_out_decides_for_others_only() -> None:
    result, _ = await run(steps(x={"when": ON, "hidden": True}, y={"path": "/y/{x.id}"}, ok={}))
    assert (result.body, tuple(result.left_out)) == (b'{"ok":{"path": "/ok"}}', ("x", "y"))


@pytest.mark.parametrize(("merge", "body"), [("flat", b'{"n":1,"o":{"b": 2}}'), ("deep", b'{"n":1,"o":{"b": 2}}'), ("group", None)])
async def test_merging_goes_on_without_what_is_left_out(merge: str, body: bytes | None) -> None:
    answers = {"/x": {"n": 3, "o": {"a": 1}}, "/y": {"n": 1, "o": {"b": 2}}}
    result, _ = await run(steps(y={}, x={"when": ON}), answers, merge=merge)
    assert result.body == (body or b'{"y":{"n": 1, "o": {"b": 2}}}')
    assert result.is_complete
    result, _ = await run(steps(y={}, x={"when": ON, "default": {"n": 0}}), answers, merge=merge)
    assert json.loads(result.body or b"") == ({"y": answers["/y"], "x": {"n": 0}} if merge == "group" else {"n": 0, "o": {"b": 2}})


async def test_a_written_response_has_null_for_what_is_left_out() -> None:
    body = {"x": "{x}", "id": "{x.id}", "text": "id {x.id}", "y": "{y.path}"}
    result, _ = await run(steps(x={"when": ON}, y={}), body=body)
    assert json.loads(result.body or b"") == {"x": None, "id": None, "text": None, "y": "/y"}
    assert (result.status, result.is_complete) == (200, True)


@pytest.mark.parametrize("merge", ["group", "flat", "deep"])
async def test_a_response_of_which_everything_is_left_out_is_an_empty_object(merge: str) -> None:
    result, _ = await run(steps(x={"when": ON}, y={"path": "/y/{x.id}"}), merge=merge)
    assert (result.status, result.body, result.is_complete, result.failure) == (200, b"{}", True, None)
    assert (list(result.outcomes), tuple(result.left_out)) == ([], ("x", "y"))


def test_no_value_counts_as_missing_where_nothing_was_asked_for() -> None:
    """A hidden step that fails is no reason to refuse a response of which everything else is left out."""
    result, _ = asyncio.run(run(steps(x={"when": ON}, h={"hidden": True}), {"/h": ConnectError("refused")}))
    assert (result.status, result.body, result.is_complete) == (200, b"{}", False)


@pytest.mark.parametrize("others", [{}, {"d": {"when": ON, "default": {"id": 1}}}])
async def test_a_response_of_which_all_that_ran_has_failed_is_a_failure(others: dict[str, dict[str, Any]]) -> None:
    result, _ = await run(steps(x={"when": ON}, y={}, **others), {"/y": ConnectError("refused")})
    assert isinstance(result.failure, NothingAnswered)
    assert (result.status, tuple(result.left_out)) == (502, ("x", *others))


async def test_a_step_that_is_left_out_frees_those_that_wait_for_more() -> None:
    """Many conditions at once: whatever holds, each step runs exactly when all it needs is there."""
    for number in range(8):
        flags = {name: bool(number >> bit & 1) for bit, name in enumerate("abc")}
        named = steps(
            flags={"hidden": True},
            **{name: {"when": f"{{flags.{name}}}"} for name in flags},
            ab={"path": "/ab", "headers": {"x": "{a.path}{b.path}"}},
            abc={"path": "/abc", "headers": {"x": "{ab.path}{c.path}"}},
        )
        result, made = await run(named, {"/flags": flags})
        expected = [*(name for name, is_set in flags.items() if is_set)]
        expected += ["ab"] * all((flags["a"], flags["b"])) + ["abc"] * all(flags.values())
        assert list(json.loads(result.body or b"")) == expected
        assert sorted(made.service.seen) == sorted(["/flags", *(f"/{name}" for name in expected)])
        assert result.is_complete
        assert _in_document_order(tuple(result.left_out), list(named))


@pytest.mark.parametrize("slow", ["/failing", "/flags"])
@pytest.mark.parametrize("is_on", [True, False])
async def test_whichever_comes_first_of_a_failed_and_a_left_out_step_decides_nothing(slow: str, is_on: bool) -> None:
    """What needs both is left out as soon as one of them is; otherwise it has failed."""
    named = steps(
        failing={},
        flags={"hidden": True},
        maybe={"when": "{flags.on}"},
        both={"headers": {"x": "{failing.path}{maybe.path}"}},
        after={"path": "/after/{both.path}"},
    )
    made = Run(named, {"/failing": ConnectError("refused"), "/flags": {"on": is_on}}, {}, on=False)
    made.service.turns[slow] = 20
    result = await made.go()
    assert tuple(result.left_out) == (() if is_on else ("maybe", "both", "after"))
    expected = {"failing": "connect_failed", "flags": None}
    if is_on:
        expected |= {"maybe": None, "both": DependencyFailed.code, "after": DependencyFailed.code}
    assert codes(result) == expected
    if is_on:
        failure = result.outcomes[3].failure
        assert failure is not None
        assert "failing" in failure.detail
    assert not result.is_complete


def _in_document_order(names: Sequence[str], order: list[str]) -> bool:
    return list(names) == sorted(names, key=order.index)
