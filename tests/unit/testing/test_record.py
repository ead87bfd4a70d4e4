"""A waiter on a record continues when its condition holds, and not before."""

import asyncio
from collections.abc import Coroutine

import pytest

from anabranch.testing.scripted.record import PATIENCE_S, Answers
from tests.support.clock import FakeTimeLoop


def run(test: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        runner.run(test)


def test_a_condition_that_already_holds_returns_at_once() -> None:
    async def test() -> None:
        answers = Answers()
        answers.add()
        await answers.until(lambda record: record.count == 1, 0)

    run(test())


def test_each_waiter_waits_for_its_own_condition() -> None:
    async def test() -> None:
        answers = Answers()
        one = asyncio.create_task(answers.until(lambda record: record.count >= 1))
        two = asyncio.create_task(answers.until(lambda record: record.count >= 2))
        await asyncio.sleep(1)
        assert not one.done()
        answers.add()
        await asyncio.sleep(1)
        assert (one.done(), two.done()) == (True, False)
        answers.add()
        await two

    run(test())


def test_waiting_times_out_unless_there_is_no_limit() -> None:
    async def test() -> None:
        answers = Answers()
        endless = asyncio.create_task(answers.until(lambda record: record.count == 1, None))
        with pytest.raises(TimeoutError):
            await answers.until(lambda record: record.count == 1)
        await asyncio.sleep(PATIENCE_S)
        assert not endless.done()
        answers.add()
        await endless

    run(test())
