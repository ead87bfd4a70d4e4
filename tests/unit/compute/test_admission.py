"""Which job gets the next free worker."""

import asyncio
from time import monotonic

import pytest

from anabranch.compute.admission import Admission
from anabranch.compute.job import Job, JobTimings, PoolCounters
from anabranch.errors import ComputePoolDown, ComputePoolFull, DeadlineExceeded


class Bench:
    """An admission with `workers` workers, called 0, 1, ..."""

    def __init__(self, workers: int = 1, *, queue: int = 10, queue_timeout_s: float | None = None) -> None:
        self.counters = PoolCounters(workers or 1)
        self.admission: Admission[int] = Admission(self.counters, queue=queue, queue_timeout_s=queue_timeout_s)
        for number in range(workers):
            self.admission.offer(number)
        self.began: list[str] = []

    def send(self, lane: str, *, limit: int | None = None, timeout_s: float = 5.0) -> "asyncio.Task[int]":
        job = Job(hook="", input=b"", deadline=monotonic() + timeout_s, step="", lane=lane, limit=limit)

        async def enter() -> int:
            worker = await self.admission.enter(job, JobTimings())
            self.began.append(lane)
            return worker

        return asyncio.ensure_future(enter())

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self, lane: str, worker: int = 0) -> None:
        self.admission.leave(lane)
        self.admission.offer(worker)
        await self.turn()


async def test_a_free_worker_is_assigned_at_once() -> None:
    bench = Bench(2)
    assert {await bench.send("a"), await bench.send("a")} == {0, 1}
    assert (bench.counters.running, bench.counters.queued) == (2, 0)


async def test_lanes_take_turns_however_long_they_are() -> None:
    bench = Bench()
    tasks = [bench.send("a") for _ in range(4)]
    await bench.turn()
    tasks += [bench.send("b"), bench.send("c")]
    await bench.turn()
    for _ in range(5):
        await bench.end(bench.began[-1])
    assert bench.began == ["a", "a", "b", "c", "a", "a"]
    await asyncio.gather(*tasks)


async def test_a_lane_at_its_limit_does_not_block_the_others() -> None:
    bench = Bench(2)
    tasks = [bench.send("a", limit=1), bench.send("a", limit=1), bench.send("b")]
    await bench.turn()
    assert bench.began == ["a", "b"]
    assert bench.counters.queued == 1
    await bench.end("a")
    assert bench.began == ["a", "b", "a"]
    await asyncio.gather(*tasks)


async def test_a_job_beyond_the_queue_size_is_rejected() -> None:
    bench = Bench(queue=1)
    first, second = bench.send("a"), bench.send("a")
    await bench.turn()
    with pytest.raises(ComputePoolFull) as caught:
        await bench.send("a")
    assert caught.value.retry_after_s is not None
    assert (bench.counters.rejected, bench.counters.queued) == (1, 1)
    await bench.end("a")
    await asyncio.gather(first, second)


async def test_a_full_queue_sheds_from_the_longest_lane() -> None:
    bench = Bench(queue=3)
    flood = [bench.send("a") for _ in range(4)]
    await bench.turn()
    single = bench.send("b")
    await bench.turn()
    with pytest.raises(ComputePoolFull):
        await flood[-1]
    await bench.end("a")
    await bench.end("a")
    assert bench.began == ["a", "a", "b"]
    await single
    flood[2].cancel()
    await asyncio.wait(flood)
    assert bench.counters.queued == 0


async def test_nobody_waits_without_a_queue() -> None:
    bench = Bench(queue=0)
    await bench.send("a")
    with pytest.raises(ComputePoolFull):
        await bench.send("b")


async def test_a_job_that_cannot_begin_in_time_never_begins() -> None:
    bench = Bench()
    await bench.send("a")
    with pytest.raises(DeadlineExceeded):
        await bench.send("b", timeout_s=0.02)
    with pytest.raises(DeadlineExceeded):
        await bench.send("b", timeout_s=-1)
    await bench.end("a")
    assert bench.began == ["a"]
    assert (bench.counters.queued, bench.counters.rejected) == (0, 2)


async def test_the_queue_has_its_own_timeout() -> None:
    bench = Bench(queue_timeout_s=0.02)
    await bench.send("a")
    with pytest.raises(ComputePoolFull, match="queue_timeout"):
        await bench.send("b")


async def test_a_job_cancelled_in_the_queue_does_not_block_the_next() -> None:
    bench = Bench()
    await bench.send("a")
    left, stayed = bench.send("b"), bench.send("b")
    await bench.turn()
    left.cancel()
    await bench.turn()
    assert bench.counters.queued == 1
    await bench.end("a")
    assert await stayed == 0
    assert bench.counters.running == 1


async def test_a_worker_assigned_to_a_cancelled_job_goes_to_the_next() -> None:
    bench = Bench()
    await bench.send("a")
    left, stayed = bench.send("b"), bench.send("c")
    await bench.turn()
    bench.admission.leave("a")
    bench.admission.offer(0)
    left.cancel()
    await bench.turn()
    assert await stayed == 0
    assert (bench.counters.running, bench.counters.queued) == (1, 0)


async def test_all_queued_jobs_can_be_rejected() -> None:
    bench = Bench(0)
    tasks = [bench.send("a"), bench.send("b")]
    await bench.turn()
    bench.admission.reject_waiting(lambda: ComputePoolDown("gone"))
    for task in tasks:
        with pytest.raises(ComputePoolDown):
            await task
    assert bench.counters.queued == 0


async def test_a_withdrawn_worker_is_not_assigned() -> None:
    bench = Bench()
    assert bench.admission.withdraw(0)
    assert not bench.admission.withdraw(0)
    task = bench.send("a")
    await bench.turn()
    assert bench.began == []
    bench.admission.offer(1)
    assert await task == 1
