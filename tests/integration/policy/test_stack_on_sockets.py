"""Complete stacks on real sockets, on both event loops: connections and cancellation, which fake time cannot test."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Self

import pytest
import uvloop

from anabranch.core.exchange import Answer, Request
from anabranch.errors import StepError
from anabranch.policy.call import Call
from anabranch.policy.stack import Stack, build_stack
from anabranch.policy.tools import Tools
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.open import open_transport
from anabranch.upstream.wire import WireTransport
from tests.support.documents import upstream_plan
from tests.support.policies import Events

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run_on_loop


class Rig:
    """A scripted upstream with a stack in front of it, and the events that the stack reported."""

    def __init__(self, spec: dict[str, Any], **settings: Any) -> None:
        self.service = ScriptedUpstream(spec)
        self._settings = settings
        self.events = Events()

    async def __aenter__(self) -> Self:
        await self.service.start()
        upstream = upstream_plan("flights", url=self.service.url, **self._settings)
        transport = open_transport(upstream)
        assert isinstance(transport, WireTransport)
        self.transport = transport
        tools = Tools(transport=transport, clock=monotonic, random=random.random, observer=self.events)
        self.stack: Stack = build_stack(upstream, tools)
        return self

    async def __aexit__(self, *_: object) -> None:
        # Tasks of the scripted service do not count.
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and "scripted/upstream.py" not in repr(task)]
        await self.stack.aclose()
        await self.transport.aclose()
        await self.service.stop()
        assert (self.stack.bulkhead.in_use, self.stack.bulkhead.queued, self.stack.coalesce.shared_calls) == (0, 0, 0)
        assert not tasks

    async def ask(self, target: str = "/", *, seconds: float = 30.0, is_coalesced: bool = False) -> Answer:
        call = Call(Request("GET", target), deadline=monotonic() + seconds, is_idempotent=True, is_required=True, is_coalesced=is_coalesced)
        return await self.stack.call(call)


def test_connection_of_the_losing_attempt_is_closed(run: Run) -> None:
    async def main() -> None:
        async with Rig({"*": [{"hang": True}, {"json": 2}]}, hedge={"after": "20ms"}) as rig:
            assert (await rig.ask()).body == b"2"
            await rig.service.until(lambda service: service.aborted == 1)
            assert rig.service.accepted == 2
            assert rig.service.open == 1

    run(main())


def test_retry_after_a_reset_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        async with Rig({"*": [{"reset": "request"}, {"status": 503, "headers": {"retry-after": "0"}}, {"json": 3}]}, retry={}) as rig:
            assert (await rig.ask()).body == b"3"
            assert [event.reason for event in rig.events if event.kind == "attempt"] == ["connection_lost", "503", "200"]

    run(main())


def test_retries_cannot_multiply_an_outage(run: Run) -> None:
    async def main() -> None:
        async with Rig({"*": {"status": 503}}, retry={"backoff": "1ms", "max_backoff": "1ms", "budget": "10%"}) as rig:
            for _ in range(10):
                answers = await asyncio.gather(*(rig.ask() for _ in range(30)))
                assert {answer.status for answer in answers} == {503}
            # The calls, a tenth of them as retries, and the floor.
            assert len(rig.service.hits) <= 300 + 30 + 10

    run(main())


def test_shared_exchange_survives_its_leader(run: Run) -> None:
    async def main() -> None:
        async with Rig({"*": {"json": 1, "delay_s": 0.5}}) as rig:
            tasks = [asyncio.create_task(rig.ask(is_coalesced=True)) for _ in range(20)]
            await rig.service.until(lambda service: len(service.hits) == 1)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert all(isinstance(result, Answer) and result.body == b"1" for result in results[1:])
            assert (len(rig.service.hits), rig.service.aborted) == (1, 0)

    run(main())


def test_connection_is_closed_when_the_last_caller_of_a_shared_exchange_leaves(run: Run) -> None:
    async def main() -> None:
        async with Rig({"*": {"hang": True}}) as rig:
            tasks = [asyncio.create_task(rig.ask(is_coalesced=True)) for _ in range(5)]
            await rig.service.until(lambda service: len(service.hits) == 1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await rig.service.until(lambda service: service.aborted == 1)

    run(main())


@pytest.mark.parametrize("seed", [1, 2])
def test_storm_of_cancellations_leaves_nothing_behind(run: Run, seed: int) -> None:
    """Slow, failing and hanging answers, few slots, hedges, retries and sharing; callers cancel at random. Then a healthy call."""
    chance = random.Random(seed)
    faults = [{"json": 1}, {"json": 1, "delay_s": 0.02}, {"status": 503}, {"reset": "request"}, {"hang": True}, {"json": 1, "drip": {"bytes": 5, "every_s": 0.005}}]  # fmt: skip
    script = [chance.choice(faults) for _ in range(400)]
    settings = {
        "timeout": "100ms",
        "concurrency": {"limit": 8, "queue": 20, "queue_timeout": "50ms"},
        "retry": {"backoff": "5ms", "budget": "100%"},
        "hedge": {"after": "10ms", "budget": "100%"},
        "breaker": {"minimum_calls": 30, "failure_rate": "90%", "open_for": "20ms"},
    }

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Rig({"/storm": script, "/calm": {"json": "calm"}}, **settings) as rig:

            async def caller(number: int) -> None:
                await asyncio.sleep(chance.random() * 0.5)
                task = asyncio.create_task(rig.ask("/storm", seconds=chance.uniform(0.01, 0.3), is_coalesced=number % 4 == 0))
                if number % 3:
                    loop.call_later(chance.random() * 0.05, task.cancel)
                try:
                    assert (await task).status in (200, 503)
                except StepError:
                    pass
                except asyncio.CancelledError:
                    assert task.cancelled()

            await asyncio.gather(*(caller(number) for number in range(300)))
            assert (rig.stack.bulkhead.in_use, rig.stack.bulkhead.queued, rig.stack.coalesce.shared_calls) == (0, 0, 0)
            await asyncio.sleep(0.05)
            assert (await rig.ask("/calm")).body == b'"calm"'

    run(main())
