"""The engine with policies that the test controls: when steps start, the effects of failures, and that no task keeps running."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from anabranch.core.exchange import Answer
from anabranch.engine.outcome import Result
from anabranch.engine.run import Engine
from anabranch.errors import ConnectError, DependencyFailed, MissingReference, NothingAnswered, StepError, UpstreamTimeout
from anabranch.policy.call import Call
from tests.support.documents import plan_of
from tests.support.requests import request_of


class Service:
    """A policy that answers each path when the test says so. `seen`: paths in the order they were called; `cancelled`: likewise.
    `cleans_up`: what a cancelled call waits for before it ends; None: nothing."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cancelled: list[str] = []
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self.ready: dict[str, Answer | StepError] = {}
        self.cleans_up: asyncio.Event | None = None

    async def __call__(self, call: Call) -> Answer:
        path = call.request.target
        self.seen.append(path)
        call.attempts = 1
        if path in self.ready:
            found = self.ready[path]
            if isinstance(found, StepError):
                raise found
            return found
        self._waiting[path] = asyncio.get_running_loop().create_future()
        try:
            return await self._waiting[path]
        except asyncio.CancelledError:
            if self.cleans_up is not None:
                await self.cleans_up.wait()
            self.cancelled.append(path)
            raise

    def answer(self, path: str, value: Any, status: int = 200) -> None:
        self._waiting.pop(path).set_result(Answer(status, [], json.dumps(value).encode()))

    def fail(self, path: str, error: Exception) -> None:
        self._waiting.pop(path).set_exception(error)


class Bench:
    """One running request."""

    def __init__(self, endpoint: dict[str, Any], ready: Mapping[str, Any] | None = None) -> None:
        self.service = Service()
        for path, value in (ready or {}).items():
            self.service.ready[path] = value if isinstance(value, StepError) else Answer(200, [], json.dumps(value).encode())
        self.plan = plan_of(endpoint)
        engine = Engine({"a": self.service, "b": self.service})
        self.before = asyncio.all_tasks()
        self.task = asyncio.ensure_future(engine.bind(self.plan)(request_of(self.plan)))

    async def turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def result(self) -> Result:
        result = await self.task
        assert asyncio.all_tasks() - self.before == set()
        return result


def steps(**named: dict[str, Any]) -> dict[str, Any]:
    return {"steps": {name: {"upstream": "a", "path": f"/{name}", **step} for name, step in named.items()}}


async def test_a_step_starts_as_soon_as_its_inputs_are_ready() -> None:
    bench = Bench(steps(a={}, slow={}, b={"path": "/b/{a.id}"}, c={"path": "/c/{b.id}"}, d={"path": "/d/{a.id}/{slow.id}"}))
    await bench.turn()
    assert sorted(bench.service.seen) == ["/a", "/slow"]
    bench.service.answer("/a", {"id": 1})
    await bench.turn()
    bench.service.answer("/b/1", {"id": 2})
    await bench.turn()
    assert bench.service.seen[2:] == ["/b/1", "/c/2"]
    bench.service.answer("/slow", {"id": 3})
    await bench.turn()
    assert bench.service.seen[-1] == "/d/1/3"
    bench.service.answer("/d/1/3", "d")
    bench.service.answer("/c/2", "c")
    result = await bench.result()
    assert result.is_complete
    assert result.body == b'{"a":{"id": 1},"slow":{"id": 3},"b":{"id": 2},"c":"c","d":"d"}'
    assert [outcome.step for outcome in result.outcomes] == ["a", "slow", "b", "c", "d"]


@pytest.mark.parametrize("order", [["x", "y", "z"], ["z", "y", "x"], ["y", "z", "x"]])
@pytest.mark.parametrize("merge", ["group", "flat", "deep"])
async def test_the_response_does_not_depend_on_the_order_of_answers(order: list[str], merge: str) -> None:
    bench = Bench({**steps(x={}, y={}, z={}), "response": {"merge": merge}})
    await bench.turn()
    for name in order:
        bench.service.answer(f"/{name}", {"k": name, name: 1})
        await bench.turn()
    result = await bench.result()
    expected = {
        "group": b'{"x":{"k": "x", "x": 1},"y":{"k": "y", "y": 1},"z":{"k": "z", "z": 1}}',
        "flat": b'{"k":"z","x":1,"y":1,"z":1}',
        "deep": b'{"k":"z","x":1,"y":1,"z":1}',
    }
    assert result.body == expected[merge]


async def test_a_required_failure_cancels_running_steps_at_once() -> None:
    bench = Bench(steps(slow={}, other={}, gone={"required": True}, later={"path": "/later/{slow.id}"}))
    await bench.turn()
    bench.service.fail("/gone", ConnectError("refused"))
    result = await bench.result()
    assert sorted(bench.service.cancelled) == ["/other", "/slow"]
    assert (result.status, result.body) == (502, None)
    assert isinstance(result.failure, ConnectError)
    assert [outcome.step for outcome in result.outcomes] == ["gone"]


async def test_a_required_step_in_a_chain_cancels_its_siblings() -> None:
    bench = Bench(steps(root={}, slow={"path": "/slow/{root.id}"}, must={"path": "/must/{root.id}", "required": True}))
    await bench.turn()
    bench.service.answer("/root", {"id": 1})
    await bench.turn()
    bench.service.answer("/must/1", {}, status=404)
    result = await bench.result()
    assert bench.service.cancelled == ["/slow/1"]
    assert result.status == 404


async def test_cancelling_the_request_cancels_and_awaits_every_step() -> None:
    bench = Bench(steps(a={}, b={}, c={"required": True}))
    await bench.turn()
    bench.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.task
    assert sorted(bench.service.cancelled) == ["/a", "/b", "/c"]
    assert asyncio.all_tasks() - bench.before == set()


@pytest.mark.parametrize("times", [2, 3])
async def test_repeated_cancellation_of_the_request_still_awaits_every_step(times: int) -> None:
    bench = Bench(steps(a={}, b={}, c={"required": True}))
    bench.service.cleans_up = asyncio.Event()
    await bench.turn()
    for _ in range(times):
        bench.task.cancel()
        await bench.turn()
    assert not bench.task.done()
    bench.service.cleans_up.set()
    with pytest.raises(asyncio.CancelledError):
        await bench.task
    assert sorted(bench.service.cancelled) == ["/a", "/b", "/c"]
    assert asyncio.all_tasks() - bench.before == set()


async def test_all_dependents_of_a_failed_step_are_skipped() -> None:
    bench = Bench(
        steps(ok={}, a={}, b={"path": "/b/{a.id}"}, c={"path": "/c/{b.id}/{ok.id}"}), {"/ok": {"id": 1}, "/a": UpstreamTimeout("late")}
    )
    result = await bench.result()
    assert result.body == b'{"ok":{"id": 1},"a":null,"b":null,"c":null}'
    assert not result.is_complete
    kinds = [type(outcome.failure) for outcome in result.outcomes]
    assert kinds == [type(None), UpstreamTimeout, DependencyFailed, DependencyFailed]
    assert sorted(bench.service.seen) == ["/a", "/ok"]


async def test_references_to_a_failed_step_see_its_default() -> None:
    endpoint = steps(ok={}, a={"default": {"id": 7}}, b={"path": "/b/{a.id}"})
    result = await Bench(endpoint, {"/ok": 1, "/a": ConnectError("refused"), "/b/7": "seven"}).result()
    assert result.body == b'{"ok":1,"a":{"id":7},"b":"seven"}'


async def test_a_skipped_required_step_decides_the_response() -> None:
    bench = Bench(steps(a={}, slow={}, b={"path": "/b/{a.id}", "required": True}))
    await bench.turn()
    bench.service.fail("/a", UpstreamTimeout("late"))
    result = await bench.result()
    assert result.status == 502
    assert isinstance(result.failure, DependencyFailed)
    assert bench.service.cancelled == ["/slow"]


async def test_a_reference_that_finds_nothing_skips_the_step() -> None:
    result = await Bench(steps(a={}, b={"path": "/b/{a.nope}"}), {"/a": {"id": 1}}).result()
    assert result.body == b'{"a":{"id": 1},"b":null}'
    failure = result.outcomes[1].failure
    assert isinstance(failure, MissingReference)
    assert "{a.nope} has no value" in failure.detail
    assert result.outcomes[1].attempts == 0


@pytest.mark.parametrize(
    ("failures", "status"),
    [
        ({"/a": UpstreamTimeout("late"), "/b": UpstreamTimeout("late")}, 504),
        ({"/a": UpstreamTimeout("late"), "/b": ConnectError("refused")}, 502),
        ({"/a": UpstreamTimeout("late")}, 504),
    ],
)
async def test_status_when_no_step_succeeds(failures: dict[str, StepError], status: int) -> None:
    second = {} if "/b" in failures else {"path": "/b/{a.id}"}
    result = await Bench(steps(a={"default": 1}, b=second), failures).result()
    assert isinstance(result.failure, NothingAnswered)
    assert (result.status, result.body) == (status, None)


async def test_a_hidden_step_does_not_count_as_an_answer() -> None:
    result = await Bench(steps(a={"hidden": True}, b={}), {"/a": 1, "/b": ConnectError("refused")}).result()
    assert result.status == 502


async def test_an_unexpected_exception_reaches_the_caller_and_leaves_nothing_running() -> None:
    bench = Bench(steps(a={}, b={"required": True}))
    await bench.turn()
    bench.service.fail("/a", RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        await bench.task
    assert bench.service.cancelled == ["/b"]
    assert asyncio.all_tasks() - bench.before == set()


async def test_timings_and_attempts_are_in_the_outcomes() -> None:
    result = await Bench(steps(a={}, b={"path": "/b/{a.id}"}), {"/a": {"id": 1}, "/b/1": 2}).result()
    first, second = result.outcomes
    assert (first.attempts, first.status, second.attempts) == (1, 200, 1)
    assert second.started_s >= first.started_s + first.elapsed_s >= 0


async def test_a_lone_chain_needs_no_task() -> None:
    bench = Bench(steps(a={}, b={"path": "/b/{a.id}"}))
    await bench.turn()
    assert asyncio.all_tasks() - bench.before == {bench.task}
    bench.service.answer("/a", {"id": 1})
    await bench.turn()
    assert asyncio.all_tasks() - bench.before == {bench.task}
    bench.service.answer("/b/1", 1)
    await bench.result()
