import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from anabranch.core.limit import FixedLimit, LimitSignal
from anabranch.errors import ConnectError, ConnectTimeout, DeadlineExceeded, QueueFull, QueueTimeout, StepError, UpstreamTimeout
from anabranch.policy.bulkhead import Bulkhead, BulkheadLayer
from tests.support.policies import OK, Act, Events, Scripted, answer, make_call


def make_layer(
    next_: Scripted, *, limit: int = 1, queue: int = 4, queue_timeout_s: float | None = None, events: Events | None = None
) -> BulkheadLayer:
    return BulkheadLayer(
        next_,
        limit=FixedLimit(limit),
        queue=queue,
        queue_timeout_s=queue_timeout_s,
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=events,
    )


async def settle() -> None:
    """Let all ready tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_run_at_once_and_all_get_their_turn() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream, limit=2, queue=10)
    calls = [make_call(seconds=10) for _ in range(7)]
    assert await asyncio.gather(*(layer(call) for call in calls)) == [OK] * 7
    assert upstream.peak == 2
    assert upstream.calls == calls
    assert [call.queue_s for call in calls] == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3])
    assert (layer.bulkhead.in_use, layer.bulkhead.queued) == (0, 0)


async def test_free_slot_is_acquired_without_yielding() -> None:
    layer = make_layer(Scripted())
    coroutine = layer(make_call())
    with pytest.raises(StopIteration) as finished:
        coroutine.send(None)
    assert finished.value.value is OK


async def test_full_queue_rejects_at_once() -> None:
    layer = make_layer(Scripted([5.0, OK]), limit=1, queue=1)
    running = [asyncio.create_task(layer(make_call(seconds=9))) for _ in range(2)]
    await settle()
    now = asyncio.get_running_loop().time()
    with pytest.raises(QueueFull) as rejected:
        await layer(make_call(seconds=9))
    assert asyncio.get_running_loop().time() == now
    assert (rejected.value.status, rejected.value.retry_after_s) == (503, 1.0)
    await asyncio.gather(*running)


async def test_without_a_queue_calls_are_rejected_at_once() -> None:
    layer = make_layer(Scripted([5.0, OK]), limit=1, queue=0)
    running = asyncio.create_task(layer(make_call(seconds=9)))
    await settle()
    with pytest.raises(QueueFull):
        await layer(make_call(seconds=9))
    await running


@pytest.mark.parametrize(
    ("queue_timeout_s", "seconds", "reason", "status", "waited_s"),
    [
        (0.1, 1.0, QueueTimeout, 503, 0.1),
        (1.0, 0.1, DeadlineExceeded, 504, 0.1),
        (None, 0.2, DeadlineExceeded, 504, 0.2),
        (0.1, 0.0, DeadlineExceeded, 504, 0.0),
    ],
)
async def test_wait_ends_with_the_first_reason(
    queue_timeout_s: float | None, seconds: float, reason: type[StepError], status: int, waited_s: float
) -> None:
    layer = make_layer(Scripted([5.0, OK]), queue_timeout_s=queue_timeout_s)
    running = asyncio.create_task(layer(make_call(seconds=9)))
    await settle()
    call = make_call(seconds=seconds)
    with pytest.raises(reason) as rejected:
        await layer(call)
    assert rejected.value.status == status
    assert call.queue_s == pytest.approx(waited_s)
    assert layer.bulkhead.queued == 0
    await running
    assert layer.bulkhead.in_use == 0


async def test_cancelled_waiter_leaves_the_queue() -> None:
    layer = make_layer(Scripted([5.0, OK]))
    running, waiting = (asyncio.create_task(layer(make_call(seconds=9))) for _ in range(2))
    await settle()
    waiting.cancel()
    await settle()
    assert layer.bulkhead.queued == 0
    await running
    assert layer.bulkhead.in_use == 0


async def test_waiter_cancelled_just_after_it_got_a_slot_passes_it_on() -> None:
    bulkhead = Bulkhead(FixedLimit(1), queue=4, queue_timeout_s=None)
    assert bulkhead.try_acquire()
    now = asyncio.get_running_loop().time()
    first, second = (asyncio.create_task(bulkhead.acquire(now=now, deadline=now + 9, is_required=True)) for _ in range(2))
    await settle()
    bulkhead.release()
    first.cancel()
    await second
    assert first.cancelled()
    assert (bulkhead.in_use, bulkhead.queued) == (1, 0)


async def test_newcomer_does_not_overtake_waiters() -> None:
    bulkhead = Bulkhead(FixedLimit(1), queue=4, queue_timeout_s=None)
    assert bulkhead.try_acquire()
    now = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(bulkhead.acquire(now=now, deadline=now + 9, is_required=False))
    await settle()
    bulkhead.release()
    assert not bulkhead.try_acquire()
    await waiting


async def order_of_service(queue: int, kinds: str) -> str:
    """Queue one call for each letter (r: required, o: optional) and return the letters, numbered, in the order in which they were
    served."""
    layer = make_layer(upstream := Scripted([0.1, OK]), limit=1, queue=queue)
    calls = {}
    tasks = [asyncio.create_task(layer(make_call(seconds=99)))]
    await settle()
    for number, kind in enumerate(kinds):
        call = make_call(seconds=99, is_required=kind == "r")
        calls[call] = f"{kind}{number}"
        tasks.append(asyncio.create_task(layer(call)))
        await settle()
    await asyncio.gather(*tasks, return_exceptions=True)
    return " ".join(calls[call] for call in upstream.calls[1:])


async def test_quiet_queue_is_served_in_order_of_arrival() -> None:
    assert await order_of_service(8, "oror") == "o0 r1 o2 r3"


async def test_queue_more_than_half_full_serves_required_calls_first() -> None:
    assert await order_of_service(6, "ooorrr") == "r3 r4 r5 o0 o1 o2"
    assert await order_of_service(6, "oooorr") == "r4 r5 o0 o1 o2 o3"


async def test_queue_below_half_again_is_served_in_order_of_arrival() -> None:
    assert await order_of_service(7, "ooorr") == "r3 r4 o0 o1 o2"
    assert await order_of_service(8, "ooorr") == "r3 o0 o1 o2 r4"


async def test_full_queue_sheds_the_newest_optional_call_for_a_required_one() -> None:
    assert await order_of_service(3, "ooorr") == "r3 r4 o0"


async def test_full_queue_of_required_calls_rejects_both_kinds() -> None:
    assert await order_of_service(2, "rrro") == "r0 r1"


async def test_full_queue_rejects_an_optional_call() -> None:
    assert await order_of_service(3, "ooooo") == "o0 o1 o2"
    assert await order_of_service(3, "oroo") == "r1 o0 o2"


async def test_shed_call_fails_with_queue_full() -> None:
    layer = make_layer(Scripted([0.1, OK]), limit=1, queue=1)
    first = asyncio.create_task(layer(make_call()))
    await settle()
    optional = asyncio.create_task(layer(make_call(is_required=False)))
    await settle()
    required = asyncio.create_task(layer(make_call(is_required=True)))
    with pytest.raises(QueueFull):
        await optional
    assert (await first, await required) == (OK, OK)


async def test_slot_is_released_when_the_attempt_fails_or_is_cancelled() -> None:
    layer = make_layer(Scripted(ConnectError("refused"), [5.0, OK]))
    with pytest.raises(ConnectError):
        await layer(make_call())
    task = asyncio.create_task(layer(make_call()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert layer.bulkhead.in_use == 0


async def test_waiting_and_rejection_are_reported_to_observer_and_notes() -> None:
    events = Events()
    layer = make_layer(Scripted([0.1, OK]), queue=1, queue_timeout_s=0.05, events=events)
    first = asyncio.create_task(layer(make_call()))
    await settle()
    call = make_call(wants_notes=True)
    with pytest.raises(QueueTimeout):
        await layer(call)
    await asyncio.sleep(0.02)
    await layer(make_call())
    await first
    assert [(event.kind, event.reason) for event in events] == [("reject", "queue_timeout"), ("queue", "")]
    assert [event.queue_s for event in events] == pytest.approx([0.05, 0.03])
    assert call.notes == ["queue_timeout after 50.0 ms in the queue"]


class ScriptedLimit:
    """An adaptive limit whose value the test sets."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.samples: list[tuple[float, int, LimitSignal]] = []
        self.then: Callable[[], int] = lambda: self.limit

    def sample(self, now: float, elapsed_s: float, in_flight: int, outcome: LimitSignal) -> None:
        self.samples.append((round(elapsed_s, 6), in_flight, outcome))
        self.limit = self.then()


def make_adaptive(next_: Scripted, limit: ScriptedLimit, events: Events | None = None) -> BulkheadLayer:
    return BulkheadLayer(
        next_, limit=limit, queue=100, queue_timeout_s=None, clock=asyncio.get_running_loop().time, upstream="flights", observer=events
    )


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        (OK, "success"),
        (answer(404), "success"),
        (answer(500), "ignore"),
        (answer(429), "dropped"),
        (answer(503), "dropped"),
        (answer(504), "dropped"),
        (UpstreamTimeout("slow"), "dropped"),
        (ConnectTimeout("slow"), "dropped"),
        (ConnectError("refused"), "ignore"),
    ],
)
async def test_every_attempt_is_one_sample_of_the_adaptive_limit(act: Act, outcome: LimitSignal) -> None:
    limit = ScriptedLimit(4)
    layer = make_adaptive(Scripted([0.2, act]), limit)
    await asyncio.gather(layer(make_call()), return_exceptions=True)
    assert limit.samples == [(0.2, 1, outcome)]


async def test_sample_excludes_time_in_the_queue_and_cancellation_is_ignored() -> None:
    limit = ScriptedLimit(1)
    layer = make_adaptive(Scripted([0.2, OK]), limit)
    tasks = [asyncio.create_task(layer(make_call())) for _ in range(3)]
    await asyncio.sleep(0.45)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limit.samples == [(0.2, 1, "success"), (0.2, 1, "success"), (0.05, 1, "ignore")]


async def test_raised_limit_serves_waiters_at_once_and_a_lowered_one_stops_them() -> None:
    events = Events()
    limit = ScriptedLimit(1)
    upstream = Scripted([0.1, OK])
    layer = make_adaptive(upstream, limit, events)
    limit.then = lambda: 3 if len(limit.samples) < 2 else 1
    tasks = [asyncio.create_task(layer(make_call(seconds=9))) for _ in range(6)]
    await asyncio.sleep(0.15)
    assert layer.bulkhead.in_use == 3
    await asyncio.sleep(0.1)
    assert (layer.bulkhead.in_use, layer.bulkhead.limit) == (1, 1)
    await asyncio.gather(*tasks)
    assert [event.reason for event in events if event.kind == "limit"] == ["3", "1"]


async def test_serve_admits_waiters_after_the_limit_has_grown() -> None:
    source = SimpleNamespace(limit=1)
    bulkhead = Bulkhead(source, queue=4, queue_timeout_s=None)
    assert bulkhead.try_acquire()
    now = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(bulkhead.acquire(now=now, deadline=now + 9, is_required=True))
    await settle()
    source.limit = 2
    bulkhead.grant()
    await waiting
    assert bulkhead.in_use == 2
