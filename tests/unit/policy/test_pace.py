import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import UpstreamPaced
from anabranch.plan.upstream import PacePlan
from anabranch.policy.pace import PaceLayer, Pacer
from tests.support.policies import OK, Events, Scripted, make_call


def plan(count: int, period_s: float, burst: int = 1) -> PacePlan:
    return PacePlan(count=count, period_s=period_s, burst=burst, text="")


def layer(
    next_: Scripted, *, count: int = 10, period_s: float = 1.0, burst: int = 1, workers: int = 1, events: Events | None = None
) -> PaceLayer:
    clock = asyncio.get_running_loop().time
    return PaceLayer(next_, plan(count, period_s, burst), clock=clock, upstream="flights", workers=workers, observer=events)


async def test_calls_go_out_evenly_in_the_order_in_which_they_came() -> None:
    upstream = Scripted()
    paced = layer(upstream)
    calls = [make_call(seconds=10) for _ in range(4)]
    began = asyncio.get_running_loop().time()
    assert await asyncio.gather(*map(paced, calls)) == [OK] * 4
    assert upstream.calls == calls
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.3)
    assert [call.queue_s for call in calls] == pytest.approx([0, 0.1, 0.2, 0.3])


async def test_workers_share_the_rate_and_a_burst_goes_out_at_once() -> None:
    paced = layer(Scripted(), burst=4, workers=2)
    calls = [make_call(seconds=10) for _ in range(4)]
    await asyncio.gather(*map(paced, calls))
    assert [call.queue_s for call in calls] == pytest.approx([0, 0, 0.2, 0.4])


async def test_call_without_a_turn_before_its_deadline_fails_at_once() -> None:
    events = Events()
    upstream = Scripted()
    paced = layer(upstream, count=1, events=events)
    first, second, late = make_call(seconds=10), make_call(seconds=10), make_call(seconds=1.5, wants_notes=True)
    waiting = [asyncio.create_task(paced(call)) for call in (first, second)]
    await asyncio.sleep(0)
    before = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamPaced) as rejected:
        await paced(late)
    assert asyncio.get_running_loop().time() == before
    assert (rejected.value.code, rejected.value.status) == ("rate_limited", 503)
    assert rejected.value.retry_after_s == pytest.approx(2.0)
    assert late.notes == ["rate_limited: the next turn comes after the deadline"]
    assert [sample.value for sample in paced.samples()] == [1, 1]
    await asyncio.gather(*waiting)


async def test_cancelled_call_gives_its_turn_to_the_next_one() -> None:
    upstream = Scripted()
    paced = layer(upstream, count=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    calls = [make_call(seconds=100) for _ in range(4)]
    tasks = [asyncio.create_task(paced(call)) for call in calls]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    assert paced.pacer.waiting == 3
    await asyncio.gather(tasks[0], tasks[2], tasks[3])
    assert loop.time() - began == pytest.approx(2.0)
    assert upstream.calls == [calls[0], calls[2], calls[3]]
    assert paced.pacer.waiting == 0


async def test_call_that_is_cancelled_just_when_its_turn_comes_gives_it_back() -> None:
    pacer = Pacer(plan(1, 1.0), asyncio.get_running_loop().time)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert pacer.try_take(began)
    waiting = asyncio.create_task(pacer.wait(loop.time(), loop.time() + 10))
    after = asyncio.create_task(pacer.wait(loop.time(), loop.time() + 10))
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 1.0, waiting.cancel)
    await asyncio.gather(waiting, return_exceptions=True)
    await after
    assert loop.time() - began == pytest.approx(1.0)
    pacer.close()


@given(
    st.integers(1, 20), st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.01, 3), st.booleans()), min_size=1, max_size=15),
)  # fmt: skip
def test_turns_keep_the_rate_and_the_order(count: int, burst: int, arrivals: list[tuple[float, float, bool]]) -> None:
    """Calls arrive, and some of them are cancelled while they wait. The timers of the pacer are run by hand."""
    sent: list[tuple[float, int]] = []

    class Clock:
        now = 0.0

    timers: list[tuple[float, object]] = []
    pacer = Pacer(plan(count, 1.0, burst), lambda: Clock.now)

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def one(index: int, deadline: float) -> None:
            if not pacer.try_take(Clock.now):
                await pacer.wait(Clock.now, deadline)
            sent.append((Clock.now, index))

        def arm() -> None:
            timers[:] = [(pacer._due, pacer._serve)] if pacer._waiting else []

        pacer._arm = arm  # type: ignore[method-assign]
        tasks = []
        for index, (pause_s, patience_s, is_cancelled) in enumerate(arrivals):
            target = Clock.now + pause_s
            while timers and timers[0][0] <= target:
                Clock.now = max(Clock.now, timers[0][0])
                pacer._serve()
                await asyncio.sleep(0)
            Clock.now = target
            task = loop.create_task(one(index, Clock.now + patience_s))
            await asyncio.sleep(0)
            if is_cancelled:
                task.cancel()
            await asyncio.sleep(0)
            tasks.append(task)
        while timers:
            Clock.now = max(Clock.now, timers[0][0])
            pacer._serve()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert [index for _, index in sent] == sorted(index for _, index in sent)
    for begin in range(len(sent)):
        for end in range(begin, len(sent)):
            assert end - begin + 1 <= burst + (sent[end][0] - sent[begin][0]) * count + 1e-4
    for at, index in sent:
        arrived = sum(pause for pause, _, _ in arrivals[: index + 1])
        assert at <= arrived + arrivals[index][1] + 1e-6, "nothing goes out after its deadline"
