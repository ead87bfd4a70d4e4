import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from anabranch.edge.dataplane import DataPlane
from anabranch.engine.outcome import Result
from tests.support.asgi import Client, http_scope, ticks
from tests.support.edge_plans import document, endpoint, result


class Engine:
    """A run that waits until it is released, and records how it ended. `cleanup_ticks`: duration of its clean-up, in turns of the loop."""

    def __init__(self, *, swallows: bool = False, cleanup_ticks: int = 0) -> None:
        self.let_go = asyncio.Event()
        self.ended = ""
        self._swallows = swallows
        self._cleanup_ticks = cleanup_ticks

    async def __call__(self, *_: object) -> Result:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            await ticks(self._cleanup_ticks)
            self.ended = "cancelled"
            if not self._swallows:
                raise
        else:
            self.ended = "done"
        return result()


class Broken(Client):
    """A server whose receive() fails."""

    async def receive(self) -> Message:
        raise OSError("the socket is gone")


class Repeating(Client):
    """A server whose receive() reports the end of the body every time, without waiting."""

    async def receive(self) -> Message:
        self.received += 1
        return {"type": "http.request", "body": b"", "more_body": False}


async def handled(engine: Callable[..., Awaitable[Result]], client: Client, *, watch_after_s: float = 0.0) -> int:
    """Serve one request. Returns the number of pending cancellations of its task; fails when a task is leaked."""
    plane = DataPlane(lambda _: engine, watch_after_s=watch_after_s)
    plane.load(document(endpoint()))
    scope = http_scope("GET", "/briefing")
    scope.update(plane.matches(scope)[1])
    before = asyncio.all_tasks()
    try:
        await plane.handle(scope, client.receive, client.send)
        await ticks(1)
    finally:
        assert asyncio.all_tasks() <= before
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def begun(engine: Engine, client: Client) -> asyncio.Task[int]:
    task = asyncio.create_task(handled(engine, client))
    await ticks()
    return task


async def test_disconnect_cancels_the_run_and_nothing_is_sent() -> None:
    engine, client = Engine(cleanup_ticks=5), Client()
    task = await begun(engine, client)
    client.leave()
    assert await task == 0
    assert engine.ended == "cancelled"
    assert client.sent == []


async def test_connected_client_gets_its_response() -> None:
    engine, client = Engine(), Client()
    task = await begun(engine, client)
    engine.let_go.set()
    assert await task == 0
    assert client.status == 200


async def test_short_request_never_checks_for_a_disconnect() -> None:
    engine, client = Engine(), Client()
    engine.let_go.set()
    await handled(engine, client, watch_after_s=60)
    assert client.received == 0


async def test_watch_skips_the_rest_of_an_unread_body() -> None:
    engine, client = Engine(), Client(b"a", b"b", b"c")
    task = await begun(engine, client)
    client.leave()
    await task
    assert engine.ended == "cancelled"


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_disconnect_at_the_moment_of_completion_is_one_or_the_other(leaves_first: bool) -> None:
    engine, client = Engine(), Client()
    task = await begun(engine, client)
    if leaves_first:
        client.leave()
        engine.let_go.set()
    else:
        engine.let_go.set()
        client.leave()
    assert await task == 0
    assert [message["type"] for message in client.sent] in ([], ["http.response.start", "http.response.body"])


async def test_disconnect_at_any_turn_before_or_after_completion_is_clean() -> None:
    for distance in range(-6, 7):
        engine, client = Engine(), Client()
        task = await begun(engine, client)
        (client.leave if distance < 0 else engine.let_go.set)()
        await ticks(abs(distance))
        client.leave()
        engine.let_go.set()
        assert await task == 0, distance


async def test_cancellation_from_outside_is_raised() -> None:
    engine, client = Engine(cleanup_ticks=3), Client()
    task = await begun(engine, client)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.ended == "cancelled"
    assert client.sent == []


async def test_cancellation_from_outside_wins_over_a_disconnect() -> None:
    for distance in range(6):
        engine, client = Engine(cleanup_ticks=4), Client()
        task = await begun(engine, client)
        client.leave()
        await ticks(distance)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_result_of_a_run_that_swallows_the_cancellation_is_not_sent() -> None:
    engine, client = Engine(swallows=True), Client()
    task = await begun(engine, client)
    client.leave()
    assert await task == 0
    assert client.sent == []


async def test_request_works_on_a_server_that_cannot_be_watched() -> None:
    engine, client = Engine(), Broken()
    task = await begun(engine, client)
    engine.let_go.set()
    assert await task == 0
    assert client.status == 200


async def test_timeout_around_the_request_is_still_a_timeout() -> None:
    engine, client = Engine(), Client()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(asyncio.get_running_loop().time()):
            await handled(engine, client)
    assert engine.ended == "cancelled"


async def test_receive_that_returns_at_once_does_not_block_the_loop() -> None:
    engine, client = Engine(), Repeating()
    task = await begun(engine, client)
    async with asyncio.timeout(30):
        while client.received < 10:
            await asyncio.sleep(0)
        engine.let_go.set()
        assert await task == 0
    assert (engine.ended, client.status) == ("done", 200)
