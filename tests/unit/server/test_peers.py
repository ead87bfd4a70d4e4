"""A worker and its peers, with a supervisor simulated by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import orjson
import pytest

from anabranch.server.heartbeat import END, Heartbeat
from anabranch.server.peers import PeerResult, Peers

PATIENCE_S = 30.0
OK: PeerResult = {"result": "ok", "digest": "d"}


class Supervisor:
    """The other end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, **message: Any) -> None:
        self.pipe.send_bytes(orjson.dumps(message))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while not self.pipe.poll():
                await asyncio.sleep(0.005)
        found: dict[str, Any] = orjson.loads(self.pipe.recv_bytes())
        return found


class Reloads:
    """The reload handler of a worker."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, _: Any) -> PeerResult:
        self.count += 1
        return {"result": "ok", "generation": 1 + self.count}


@asynccontextmanager
async def worker(*, patience_s: float = PATIENCE_S) -> AsyncIterator[tuple[Peers, Supervisor, Reloads]]:
    ours, theirs = Pipe()
    peers, reloads = Peers(Heartbeat(theirs), 0, patience_s=patience_s), Reloads()
    peers.listen({"reload": reloads})
    try:
        yield peers, Supervisor(ours), reloads
    finally:
        peers.close()
        ours.close()
        theirs.close()


async def test_results_of_all_other_workers_are_collected() -> None:
    async with worker() as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("reload"))
        number = (await supervisor.hear())["ask"]
        supervisor.say(asked=[1, 2], round=number)
        supervisor.say(done=number, worker=2, outcome={"result": "failed"})
        supervisor.say(done=number, worker=1, outcome=OK)
        assert await asked == {1: OK, 2: {"result": "failed"}}


async def test_an_order_carries_its_argument() -> None:
    async with worker() as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("purge", {"tags": ["a"]}))
        heard = await supervisor.hear()
        assert (heard["order"], heard["argument"]) == ("purge", {"tags": ["a"]})
        supervisor.say(asked=[], round=heard["ask"])
        assert await asked == {}


async def test_reload_without_other_workers_returns_at_once() -> None:
    async with worker() as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("reload"))
        supervisor.say(asked=[], round=(await supervisor.hear())["ask"])
        assert await asked == {}


async def test_silent_worker_is_reported_as_no_answer() -> None:
    async with worker(patience_s=1.0) as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("reload"))
        supervisor.say(asked=[1, 2], round=(number := (await supervisor.hear())["ask"]))
        supervisor.say(done=number, worker=1, outcome=OK)
        assert await asked == {1: OK, 2: {"result": "no answer"}}


async def test_silent_supervisor_means_no_worker_was_reached() -> None:
    async with worker(patience_s=0.05) as (peers, _, _):
        assert await peers.ask("reload") is None


async def test_worker_that_ends_is_not_waited_for() -> None:
    async with worker() as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("reload"))
        supervisor.say(asked=[1], round=(await supervisor.hear())["ask"])
        supervisor.say(ended=7)
        supervisor.say(ended=1)
        assert await asked == {1: {"result": "ended"}}


async def test_late_answer_counts_for_its_own_round_only() -> None:
    async with worker(patience_s=0.05) as (peers, supervisor, _):
        assert await peers.ask("reload") is None
        late = (await supervisor.hear())["ask"]
        asked = asyncio.ensure_future(peers.ask("reload"))
        number = (await supervisor.hear())["ask"]
        assert number != late
        supervisor.say(asked=[1], round=late)
        supervisor.say(done=late, worker=1, outcome=OK)
        assert await asked is None


@pytest.mark.parametrize("is_told", [True, False])
async def test_shutdown_ends_the_waiting(is_told: bool) -> None:
    async with worker() as (peers, supervisor, _):
        asked = asyncio.ensure_future(peers.ask("reload"))
        supervisor.say(asked=[1], round=(await supervisor.hear())["ask"])
        if is_told:
            supervisor.pipe.send_bytes(END)
        else:
            supervisor.pipe.close()
        assert (await asked) in ({1: {"result": "no answer"}}, None)  # the end may arrive together with the rest
        assert await peers.ask("reload") is None


async def test_requested_worker_reloads_and_reports_the_result() -> None:
    async with worker() as (_, supervisor, reloads):
        supervisor.say(order="reload", argument=None, by=[3, 99])
        assert await supervisor.hear() == {"done": [3, 99], "outcome": {"result": "ok", "generation": 2}}
        assert reloads.count == 1


async def test_draining_worker_ignores_all_messages_except_the_end() -> None:
    ours, theirs = Pipe()
    heartbeat, reloads = Heartbeat(theirs), Reloads()
    peers = Peers(heartbeat, 0)
    peers.listen({"reload": reloads})
    peers.close()
    Supervisor(ours).say(order="reload", argument=None, by=[3, 99])
    assert not heartbeat.is_end()
    ours.send_bytes(END)
    assert heartbeat.is_end()
    assert reloads.count == 0
    ours.close()
    theirs.close()
