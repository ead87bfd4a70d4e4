"""Cancellation: a cancelled exchange closes its connection and does not affect other exchanges."""

import asyncio
import random
from typing import Any

import pytest

from anabranch.core.exchange import Answer
from anabranch.errors import UpstreamError
from tests.support.rig import Rig

OK = {"json": {"ok": True}}


async def test_cancelled_exchange_closes_its_connection(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"hang": True}, "/ok": OK})
    await caller.ask("/ok")
    task = asyncio.create_task(caller.ask("/x"))
    await upstream.until(lambda record: len(record.hits) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caller.connections == 0
    await upstream.until(lambda record: record.aborted == 1 and record.open == 0)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"size": 10_000, "drip": {"bytes": 10, "every_s": 0.01}},
        {"size": 10_000, "chunked": 100, "drip": {"bytes": 10, "every_s": 0.01}},
        {"interim": [100], "drip": {"bytes": 25, "every_s": 5.0}},
    ],
)
async def test_cancellation_during_an_answer_closes_the_connection(rig: Rig, behaviour: dict[str, Any]) -> None:
    upstream, caller = await rig.both({"/x": behaviour, "/ok": OK})
    task = asyncio.create_task(caller.ask("/x"))
    await upstream.until(lambda record: len(record.hits) == 1)
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda record: record.aborted == 1 and record.open == 0)
    assert (await caller.ask("/ok")).body == b'{"ok": true}'


async def test_cancellation_while_a_large_body_is_written_closes_the_connection(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"hang": True, "early": True}, "/ok": OK})
    task = asyncio.create_task(caller.ask("/x", method="POST", body=b"x" * 50_000_000))
    await upstream.until(lambda record: record.counts["/x"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upstream.until(lambda record: record.open == 0)


async def test_answer_and_cancellation_in_the_same_turn_leave_nothing(rig: Rig) -> None:
    """The future is done but the task has not run yet: the answer is lost, and the connection must not be shared by two exchanges."""
    _, caller = await rig.both({"/x": OK})
    outcomes: list[object] = []
    for turns in range(40):
        task = asyncio.create_task(caller.ask("/x"))
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        task.cancel()
        outcomes += await asyncio.gather(task, return_exceptions=True)
        assert (await caller.ask("/x")).body == b'{"ok": true}'
    assert all(isinstance(outcome, Answer | asyncio.CancelledError) for outcome in outcomes)


async def test_storm_of_cancellations_under_contention_leaves_nothing(rig: Rig) -> None:
    """The scenario that leaks a pool slot for each cancelled waiter in httpcore 1 (encode/httpcore #1093)."""
    spec = {
        "/slow": {"delay_s": 0.02, **OK},
        "/hang": {"hang": True},
        "/drip": {"size": 300, "drip": {"bytes": 30, "every_s": 0.002}},
        "/ok": OK,
    }
    upstream, caller = await rig.both(spec, connect_timeout="30s")
    dice = random.Random(7)
    rounds, width = (20, 100) if rig.is_wire else (5, 100)
    for _ in range(rounds):
        tasks = [asyncio.create_task(caller.ask(dice.choice(list(spec)), within_s=30.0)) for _ in range(width)]
        for task in dice.sample(tasks, width):
            if dice.random() < 0.3:
                await asyncio.sleep(0)
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError | Answer), result
    assert (await caller.ask("/ok", within_s=30.0)).body == b'{"ok": true}'
    await upstream.until(lambda record: record.concurrent == 0)
    assert (await caller.ask("/ok", within_s=30.0)).body == b'{"ok": true}'


async def test_storm_of_timeouts_leaves_nothing(rig: Rig) -> None:
    upstream, caller = await rig.both({"/hang": {"hang": True}, "/ok": OK})
    for _ in range(5):
        results = await asyncio.gather(*(caller.ask("/hang", within_s=0.03) for _ in range(40)), return_exceptions=True)
        assert all(isinstance(result, UpstreamError) for result in results)
    await upstream.until(lambda record: record.open == 0)
    assert (await caller.ask("/ok")).status == 200
