import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.cache.keys import OF_THE_REQUEST
from anabranch.core.exchange import Answer, HeaderBlock
from anabranch.errors import ConnectionLost, DeadlineExceeded, UpstreamTimeout
from anabranch.policy.attempt import AttemptLayer
from anabranch.policy.call import Call, Policy
from anabranch.policy.coalesce import CoalesceLayer, coalescing_key
from tests.support.clock import START, FakeTimeLoop
from tests.support.policies import ADDRESS, OK, Events, Scripted, after, answer, make_call


def make_layer(next_: Policy, *, events: Events | None = None) -> CoalesceLayer:
    return CoalesceLayer(next_, clock=asyncio.get_running_loop().time, upstream="flights", observer=events)


def shared(target: str = "/", *, seconds: float = 10.0, is_required: bool = True, extra: tuple[tuple[bytes, bytes], ...] = ()) -> Call:
    return make_call(target, seconds=seconds, is_coalesced=True, is_required=is_required, extra=extra)


def begin(layer: CoalesceLayer, call: Call) -> asyncio.Task[Answer]:
    async def run() -> Answer:
        return await layer(call)

    return asyncio.create_task(run())


def other_tasks() -> int:
    return len(asyncio.all_tasks()) - 1


def elapsed() -> float:
    return round(asyncio.get_running_loop().time() - START, 6)


class Slow:
    """A transport that takes `seconds`, or times out at the deadline like the real ones."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began: list[float] = []
        self.timeouts = 0

    def layer(self, *, timeout_s: float | None = None) -> AttemptLayer:
        return AttemptLayer(
            self,
            address=ADDRESS,
            timeout_s=timeout_s,
            deadline_header=None,
            clock=asyncio.get_running_loop().time,
            upstream="flights",
        )

    async def exchange(self, request: object, address: object, deadline: float) -> Answer:
        self.began.append(elapsed())
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.sleep(self.seconds)
        except TimeoutError:
            self.timeouts += 1
            raise UpstreamTimeout("slow", may_be_processed=True) from None
        return OK

    async def aclose(self) -> None:
        pass


async def test_identical_calls_share_one_exchange() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    calls = [shared() for _ in range(5)]
    assert await asyncio.gather(*(begin(layer, call) for call in calls)) == [OK] * 5
    assert len(upstream.calls) == 1
    assert [(call.attempts, call.address) for call in calls] == [(1, ADDRESS)] * 5
    assert (layer.shared_calls, other_tasks()) == (0, 0)


async def test_answer_is_not_cached() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    await layer(shared())
    await layer(shared())
    assert len(upstream.calls) == 2


async def test_call_that_is_not_coalesced_passes_through() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    call = make_call()
    await asyncio.gather(begin(layer, call), begin(layer, make_call()), begin(layer, shared()))
    assert len(upstream.calls) == 3
    assert upstream.calls[0] is call


async def test_only_get_and_head_are_shared() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    for method in ("PUT", "DELETE", "POST"):
        await asyncio.gather(*(begin(layer, make_call(method=method, is_coalesced=True)) for _ in range(2)))
    assert len(upstream.calls) == 6


async def test_all_callers_get_the_failure_of_the_shared_call() -> None:
    layer = make_layer(Scripted([0.1, ConnectionLost("reset")]))
    results = await asyncio.gather(*(begin(layer, shared()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLost] * 3


async def test_programming_error_reaches_all_callers() -> None:
    layer = make_layer(Scripted([0.1, ZeroDivisionError()]))
    results = await asyncio.gather(*(begin(layer, shared()) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2


async def test_cancelled_leader_does_not_fail_the_followers() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    leader, follower = begin(layer, shared()), begin(layer, shared())
    await asyncio.sleep(0.05)
    leader.cancel()
    assert await follower is OK
    assert leader.cancelled()
    assert (len(upstream.calls), upstream.cancelled) == (1, 0)


async def test_shared_call_is_cancelled_and_awaited_when_the_last_caller_leaves() -> None:
    upstream = Scripted([5.0, OK])
    layer = make_layer(upstream)
    tasks = [begin(layer, shared()) for _ in range(3)]
    await asyncio.sleep(0.05)
    for number, task in enumerate(tasks):
        assert upstream.running == 1
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert upstream.running == (0 if number == 2 else 1)
    assert (layer.shared_calls, other_tasks()) == (0, 0)


async def test_no_call_joins_a_flight_that_is_being_cancelled() -> None:
    upstream = Scripted([5.0, OK], [0.1, OK])
    layer = make_layer(upstream)
    leader = begin(layer, shared())
    await asyncio.sleep(0.05)
    leader.cancel()
    newcomer = begin(layer, shared())
    assert await newcomer is OK
    assert len(upstream.calls) == 2


async def test_follower_with_less_time_leaves_and_the_flight_continues() -> None:
    upstream = Scripted([1.0, OK])
    layer = make_layer(upstream)
    leader = begin(layer, shared())
    await asyncio.sleep(0)
    with pytest.raises(UpstreamTimeout) as late:
        await layer(shared(seconds=0.2))
    assert late.value.may_be_processed
    assert elapsed() == 0.2
    assert await leader is OK


async def test_follower_that_leaves_before_anything_was_sent_gets_deadline_exceeded() -> None:
    async def queued(call: Call) -> Answer:
        await asyncio.sleep(1)
        return OK

    layer = make_layer(queued)
    leader = begin(layer, shared())
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await layer(shared(seconds=0.2))
    await leader


async def test_follower_with_more_time_joins_another_flight_after_the_leaders_deadline() -> None:
    transport = Slow(0.3)
    events = Events()
    layer = make_layer(transport.layer(), events=events)
    leader = begin(layer, shared(seconds=0.2))
    await asyncio.sleep(0.1)
    followers = [shared(seconds=seconds) for seconds in (2.0, 3.0, 2.5)]
    results = await asyncio.gather(leader, *(begin(layer, call) for call in followers), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamTimeout, Answer, Answer, Answer]
    assert transport.began == [0.0, 0.2]
    assert [call.attempts for call in followers] == [2, 2, 2]
    assert [event.reason for event in events] == ["joined", "joined", "joined", "restarted", "restarted"]


async def test_timeout_independent_of_the_leaders_deadline_is_shared() -> None:
    transport = Slow(9.0)
    layer = make_layer(transport.layer(timeout_s=0.2))
    leader = begin(layer, shared(seconds=1.0))
    await asyncio.sleep(0.1)
    with pytest.raises(UpstreamTimeout):
        await layer(shared(seconds=5.0))
    assert elapsed() == 0.2
    await asyncio.gather(leader, return_exceptions=True)
    assert len(transport.began) == 1


async def test_inner_layers_see_the_leaders_deadline_as_a_timeout_not_a_cancellation() -> None:
    transport = Slow(9.0)
    with pytest.raises(UpstreamTimeout):
        await make_layer(transport.layer())(shared(seconds=0.5))
    assert transport.timeouts == 1


async def test_there_are_never_more_flights_than_calls() -> None:
    transport = Slow(100.0)
    layer = make_layer(transport.layer())
    tasks = [begin(layer, shared(seconds=1 + number / 10)) for number in range(20)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {UpstreamTimeout}
    assert elapsed() == pytest.approx(2.9)
    assert len(transport.began) <= 20
    assert other_tasks() == 0


async def test_required_and_optional_calls_do_not_share() -> None:
    upstream = Scripted([0.1, OK])
    layer = make_layer(upstream)
    await asyncio.gather(begin(layer, shared(is_required=True)), begin(layer, shared(is_required=False)))
    assert len(upstream.calls) == 2
    assert [call.is_required for call in upstream.calls] == [True, False]


async def test_closing_cancels_flights_and_fails_their_callers() -> None:
    upstream = Scripted([5.0, OK])
    layer = make_layer(upstream)
    tasks = [begin(layer, shared()), begin(layer, shared("/other"))]
    await asyncio.sleep(0.05)
    await layer.aclose()
    await layer.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLost] * 2
    assert upstream.running == 0


async def test_notes_record_that_an_answer_is_shared() -> None:
    layer = make_layer(Scripted([0.1, OK]))
    follower = make_call(is_coalesced=True, wants_notes=True)
    await asyncio.gather(begin(layer, shared()), begin(layer, follower))
    assert follower.notes == ["coalesce (joined)"]


names = st.sampled_from(
    [b"authorization", b"cookie", b"accept-language", b"x-tenant", b"x-user", b"x-request-id", b"traceparent", b"tracestate"]
)
fields = st.lists(st.tuples(names, st.sampled_from([b"", b"a", b"b", b"a, b"])), max_size=5).map(tuple)


@given(fields, fields, fields, fields)
def test_calls_share_exactly_when_only_ignored_fields_differ(
    left_plan: tuple[tuple[bytes, bytes], ...],
    right_plan: tuple[tuple[bytes, bytes], ...],
    left_extra: tuple[tuple[bytes, bytes], ...],
    right_extra: tuple[tuple[bytes, bytes], ...],
) -> None:
    async def run() -> tuple[bool, int]:
        upstream = Scripted([0.1, OK])
        layer = make_layer(upstream)
        left = make_call(headers=HeaderBlock.of(list(left_plan)), extra=left_extra, is_coalesced=True)
        right = make_call(headers=HeaderBlock.of(list(right_plan)), extra=right_extra, is_coalesced=True)
        await asyncio.gather(begin(layer, left), begin(layer, right))
        return coalescing_key(left) == coalescing_key(right), len(upstream.calls)

    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        is_same_key, exchanges = runner.run(run())

    def quiet(extra: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
        return [field for field in extra if field[0] not in OF_THE_REQUEST]

    is_same = left_plan == right_plan and quiet(left_extra) == quiet(right_extra)
    assert is_same_key == is_same
    assert exchanges == (1 if is_same else 2)


@given(st.binary(min_size=1), st.binary(min_size=1), st.sampled_from([b"authorization", b"cookie", b"x-api-key"]))
def test_two_principals_never_share_a_call(left: bytes, right: bytes, name: bytes) -> None:
    async def run() -> bool:
        return coalescing_key(shared(extra=((name, left),))) == coalescing_key(shared(extra=((name, right),)))

    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        assert runner.run(run()) == (left == right)


async def test_calls_with_another_target_method_or_body_do_not_share() -> None:
    calls = [
        make_call("/a", is_coalesced=True),
        make_call("/a?x=1", is_coalesced=True),
        make_call("/a", method="HEAD", is_coalesced=True),
        make_call("/a", body=b"", is_coalesced=True),
        make_call("/a", body=b"{}", is_coalesced=True),
    ]
    assert len({coalescing_key(call) for call in calls}) == 5


async def test_burst_of_calls_leaves_nothing_behind() -> None:
    upstream = Scripted([0.1, answer(503)])
    layer = make_layer(upstream)
    tasks = [begin(layer, shared(f"/{number % 7}", seconds=0.05 + number / 100)) for number in range(100)]
    for number, task in enumerate(tasks):
        after(number / 400, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (layer.shared_calls, upstream.running, other_tasks()) == (0, 0, 0)
