import asyncio

import pytest

from anabranch.policy.tasks import cancel_and_wait


async def test_task_has_ended_when_it_returns() -> None:
    closed = asyncio.Event()

    async def exchange() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.1)
            closed.set()

    task = asyncio.create_task(exchange())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert closed.is_set()
    assert task.cancelled()


async def test_failure_of_an_ended_task_is_marked_as_retrieved() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    task = asyncio.create_task(fail())
    await asyncio.wait((task,))
    await cancel_and_wait(task)
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_cancellation_meanwhile_is_raised_only_after_the_task_has_ended() -> None:
    closed = asyncio.Event()

    async def exchange() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.1)
            closed.set()

    task = asyncio.create_task(exchange())
    await asyncio.sleep(0)
    ender = asyncio.create_task(cancel_and_wait(task))
    await asyncio.sleep(0.05)
    ender.cancel()
    await asyncio.sleep(0.01)
    ender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ender
    assert closed.is_set()
