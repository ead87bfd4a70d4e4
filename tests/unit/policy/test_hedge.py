import asyncio

import pytest

from anabranch.core.budget import Budget
from anabranch.core.exchange import Address, Answer, Request
from anabranch.core.hedging import FixedDelay, HedgeDelay, QuantileDelay
from anabranch.core.limit import FixedLimit
from anabranch.errors import ConnectError, ConnectionLost, UpstreamTimeout
from anabranch.policy.bulkhead import BulkheadLayer
from anabranch.policy.call import Call, Policy
from anabranch.policy.hedge import HedgeLayer
from tests.support.clock import START
from tests.support.policies import ADDRESS, OK, Act, Events, Scripted, after, answer, make_call


def make_layer(next_: Policy, *, delay: HedgeDelay | None = None, budget: Budget | None = None, events: Events | None = None) -> HedgeLayer:
    return HedgeLayer(
        next_,
        delay=delay or FixedDelay(0.05),
        budget=budget or Budget(1.0),
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=events,
    )


def elapsed() -> float:
    return asyncio.get_running_loop().time() - START


def other_tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


FIRST, SECOND = answer(200, b"1"), answer(200, b"2")


async def test_quick_call_is_not_hedged_and_needs_no_task() -> None:
    upstream = Scripted([0.04, OK])
    call = make_call()
    task = asyncio.current_task()
    assert await make_layer(upstream)(call) is OK
    assert (call.attempts, call.is_hedged, len(upstream.calls)) == (1, False, 1)
    await asyncio.sleep(1)
    assert len(upstream.calls) == 1
    assert task is asyncio.current_task()


async def test_first_good_answer_wins_and_the_loser_is_cancelled_before_it_is_returned() -> None:
    upstream = Scripted([10.0, FIRST], [0.01, SECOND])
    call = make_call(seconds=20)
    assert await make_layer(upstream)(call) is SECOND
    assert elapsed() == pytest.approx(0.06)
    assert (upstream.running, upstream.cancelled) == (0, 1)
    assert (call.attempts, call.is_hedged) == (2, True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


async def test_first_attempt_may_still_win() -> None:
    upstream = Scripted([0.08, FIRST], [10.0, SECOND])
    call = make_call(seconds=20)
    assert await make_layer(upstream)(call) is FIRST
    assert elapsed() == pytest.approx(0.08)
    assert (upstream.running, upstream.cancelled, call.attempts) == (0, 1, 2)
    assert not other_tasks()


@pytest.mark.parametrize("bad", [answer(503), ConnectionLost("reset", may_be_processed=True)])
async def test_a_bad_result_waits_for_the_other_attempt(bad: Act) -> None:
    upstream = Scripted([0.06, bad], [0.2, SECOND])
    assert await make_layer(upstream)(make_call(seconds=20)) is SECOND
    assert elapsed() == pytest.approx(0.25)
    upstream = Scripted([0.3, FIRST], [0.01, bad])
    assert await make_layer(upstream)(make_call(seconds=20)) is FIRST
    assert upstream.cancelled == 0


async def test_when_both_fail_the_first_attempts_failure_counts() -> None:
    for first_s, second_s in ((0.1, 0.01), (0.06, 0.5)):
        upstream = Scripted([first_s, ConnectionLost("first")], [second_s, ConnectError("second")])
        with pytest.raises(ConnectionLost, match="first"):
            await make_layer(upstream)(make_call(seconds=20))
    upstream = Scripted([0.1, answer(502)], [0.01, ConnectError("second")])
    assert (await make_layer(upstream)(make_call(seconds=20))).status == 502


async def test_client_error_is_a_good_answer() -> None:
    upstream = Scripted([10.0, FIRST], [0.01, answer(404)])
    assert (await make_layer(upstream)(make_call(seconds=20))).status == 404


async def test_failure_before_the_delay_is_not_hedged() -> None:
    upstream = Scripted([0.01, answer(503)])
    assert (await make_layer(upstream)(make_call())).status == 503
    await asyncio.sleep(1)
    assert len(upstream.calls) == 1


async def test_call_that_is_not_idempotent_is_not_hedged() -> None:
    upstream = Scripted([0.5, OK])
    await make_layer(upstream)(make_call(method="POST", is_idempotent=False))
    assert len(upstream.calls) == 1


async def test_no_hedge_begins_at_or_after_the_deadline() -> None:
    upstream = Scripted([0.5, OK])
    await make_layer(upstream)(make_call(seconds=0.05))
    assert len(upstream.calls) == 1


async def test_budget_bounds_the_hedges() -> None:
    events = Events()
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream, budget=Budget(0.05, floor=0), events=events)
    for _ in range(100):
        await layer(make_call())
    assert len(upstream.calls) == 105
    assert events.kinds().count("hedge") == 5
    assert events.kinds().count("hedge_denied") == 95


async def test_cancellation_from_outside_ends_both() -> None:
    scripts: list[list[Act]] = [[10.0, FIRST], [0.06, answer(503)]]
    for script in scripts:
        upstream = Scripted(script, [10.0, SECOND])
        task = asyncio.create_task(make_layer(upstream)(make_call(seconds=20)))
        await asyncio.sleep(0.1)
        assert upstream.running >= 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.running == 0
        assert not other_tasks()


async def test_cancellation_at_the_moment_the_hedge_wins_is_not_lost() -> None:
    upstream = Scripted([10.0, FIRST], [0.05, SECOND])
    layer = make_layer(upstream)

    async def run() -> object:
        return await layer(make_call(seconds=20))

    task = asyncio.create_task(run())
    after(0.1, task.cancel)
    await asyncio.wait((task,))
    assert task.cancelled()
    assert upstream.running == 0


async def test_timeout_around_a_hedged_call_still_works() -> None:
    upstream = Scripted([10.0, FIRST], [10.0, SECOND])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await make_layer(upstream)(make_call(seconds=20))
    assert upstream.running == 0
    upstream = Scripted([10.0, FIRST], [0.1, SECOND])
    async with asyncio.timeout(0.5):
        assert await make_layer(upstream)(make_call(seconds=20)) is SECOND


async def test_attempt_that_swallows_the_interruption_does_not_leave_the_task_cancelled() -> None:
    async def stubborn(call: Call) -> Answer:
        call.attempts += 1
        if call.attempts > 1:
            return SECOND
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise UpstreamTimeout("closed in the same moment") from None
        return FIRST

    assert await make_layer(stubborn)(make_call(seconds=20)) is SECOND
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_programming_error_ends_the_hedge_too() -> None:
    upstream = Scripted([0.1, ZeroDivisionError()], [10.0, SECOND])
    with pytest.raises(ZeroDivisionError):
        await make_layer(upstream)(make_call(seconds=20))
    assert upstream.running == 0


async def test_queued_call_is_not_hedged() -> None:
    upstream = Scripted([0.2, OK])
    bulkhead = BulkheadLayer(
        upstream,
        limit=FixedLimit(1),
        queue=10,
        queue_timeout_s=None,
        clock=asyncio.get_running_loop().time,
        upstream="flights",
    )
    layer = make_layer(bulkhead, delay=FixedDelay(0.15))

    async def run() -> Call:
        call = make_call(seconds=20)
        await layer(call)
        return call

    calls = await asyncio.gather(*(run() for _ in range(3)))
    assert not any(call.is_hedged and call.attempts == 0 for call in calls)
    assert bulkhead.bulkhead.in_use == bulkhead.bulkhead.queued == 0
    assert len(upstream.calls) == 3


async def test_hedge_is_a_separate_optional_call_that_avoids_the_first_address() -> None:
    seen: list[Call] = []
    requests: list[Request] = []

    async def next_(call: Call) -> Answer:
        seen.append(call)
        requests.append(call.request)
        call.attempts += 1
        call.address = ADDRESS if len(seen) == 1 else Address.parse("http://127.0.0.1:9102")
        call.avoid = (*call.avoid, call.address)
        call.request = Request("GET", "/other")
        await asyncio.sleep(10.0 if len(seen) == 1 else 0.01)
        return SECOND

    call = make_call(seconds=20)
    request = call.request
    call.attempts = 3
    await make_layer(next_)(call)
    first, second = seen
    assert first is call
    assert (second.is_required, second.attempts) == (False, 5)
    assert (call.is_required, call.attempts, call.address) == (True, 5, Address.parse("http://127.0.0.1:9102"))
    assert len(call.avoid) == 2
    assert requests == [request, request]


async def test_quantile_delay_hedges_only_unusually_slow_calls() -> None:
    quick: list[Act] = [0.01, OK]
    upstream = Scripted(*[quick] * 100, [10.0, FIRST], [0.01, SECOND])
    layer = make_layer(upstream, delay=QuantileDelay("p95"))
    for _ in range(100):
        await layer(make_call())
    assert len(upstream.calls) == 100
    await asyncio.sleep(0.5)
    began = elapsed()
    assert await layer(make_call(seconds=20)) is SECOND
    assert elapsed() - began == pytest.approx(0.02, rel=0.05)


async def test_slow_attempts_that_lose_still_count_for_the_quantile() -> None:
    class Spy(FixedDelay):
        __slots__ = ("samples",)

        def __init__(self) -> None:
            super().__init__(0.05)
            self.samples: list[float] = []

        def add(self, now: float, elapsed_s: float) -> None:
            self.samples.append(round(elapsed_s, 6))

    spy = Spy()
    upstream = Scripted([10.0, FIRST], [0.01, SECOND], [0.02, OK], [0.03, answer(500)], [0.04, UpstreamTimeout("slow")])
    layer = make_layer(upstream, delay=spy)
    for _ in range(4):
        await asyncio.gather(layer(make_call(seconds=20)), return_exceptions=True)
    assert spy.samples == [0.06, 0.02, 0.04]


async def test_hedges_are_reported_to_observer_and_notes() -> None:
    events = Events()
    upstream = Scripted([10.0, FIRST], [0.01, SECOND])
    call = make_call(seconds=20, wants_notes=True)
    await make_layer(upstream, events=events)(call)
    assert [(event.kind, event.reason) for event in events] == [("hedge", "fixed"), ("hedge_won", "")]
    assert call.notes == ["hedge (fixed)", "hedge won"]
