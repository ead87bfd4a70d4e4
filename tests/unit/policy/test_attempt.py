import asyncio

import pytest

from anabranch.errors import ConnectError, DeadlineExceeded
from anabranch.policy.attempt import AttemptLayer
from tests.support.clock import START
from tests.support.policies import ADDRESS, OK, Events, Scripted, make_call


def make_layer(
    transport: Scripted, *, timeout_s: float | None = None, deadline_header: bytes | None = None, events: Events | None = None
) -> AttemptLayer:
    return AttemptLayer(
        transport,
        address=ADDRESS,
        timeout_s=timeout_s,
        deadline_header=deadline_header,
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=events,
    )


async def test_attempt_uses_its_own_timeout_when_that_is_shorter() -> None:
    transport = Scripted()
    call = make_call(seconds=2)
    assert await make_layer(transport, timeout_s=0.5)(call) is OK
    assert transport.deadlines == [START + 0.5]
    assert (call.attempts, call.address) == (1, ADDRESS)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
async def test_attempt_never_gets_more_than_the_deadline(timeout_s: float | None) -> None:
    transport = Scripted()
    await make_layer(transport, timeout_s=timeout_s)(make_call(seconds=2))
    assert transport.deadlines == [START + 2]


async def test_expired_deadline_does_not_touch_the_transport() -> None:
    transport = Scripted()
    call = make_call(seconds=0)
    with pytest.raises(DeadlineExceeded):
        await make_layer(transport)(call)
    assert (transport.requests, call.attempts) == ([], 0)


async def test_deadline_header_has_the_whole_milliseconds_left_for_this_attempt() -> None:
    transport = Scripted()
    layer = make_layer(transport, timeout_s=0.25, deadline_header=b"x-deadline-ms")
    await layer(make_call(seconds=2, extra=((b"a", b"b"),)))
    await layer(make_call(seconds=0.1239))
    await layer(make_call(seconds=0.0001))
    assert [request.extra for request in transport.requests] == [
        ((b"a", b"b"), (b"x-deadline-ms", b"250")),
        ((b"x-deadline-ms", b"123"),),
        ((b"x-deadline-ms", b"1"),),
    ]


async def test_deadline_header_is_not_added_twice_by_a_second_attempt() -> None:
    transport = Scripted()
    layer = make_layer(transport, deadline_header=b"x-deadline-ms")
    call = make_call(seconds=2)
    await layer(call)
    await layer(call)
    assert [len(request.extra) for request in transport.requests] == [1, 1]


async def test_address_of_the_call_is_used_when_the_upstream_has_several() -> None:
    transport = Scripted()
    layer = AttemptLayer(
        transport, address=None, timeout_s=None, deadline_header=None, clock=asyncio.get_running_loop().time, upstream="flights"
    )
    call = make_call()
    call.address = ADDRESS
    assert await layer(call) is OK


async def test_answers_and_failures_are_reported_to_observer_and_notes() -> None:
    events = Events()
    layer = make_layer(Scripted([0.01, OK], [0.02, ConnectError("refused")]), events=events)
    call = make_call(wants_notes=True)
    await layer(call)
    with pytest.raises(ConnectError):
        await layer(call)
    assert [(event.kind, event.reason, event.attempt, event.address) for event in events] == [
        ("attempt", "200", 1, ADDRESS),
        ("attempt", "connect_failed", 2, ADDRESS),
    ]
    assert [event.elapsed_s for event in events] == pytest.approx([0.01, 0.02])
    assert call.notes == ["attempt 1: 200 after 10.0 ms", "attempt 2: connect_failed after 20.0 ms"]


async def test_cancelled_attempt_is_reported_too() -> None:
    events = Events()
    layer = make_layer(Scripted([10.0, OK]), events=events)

    async def run() -> None:
        await layer(make_call(seconds=20))

    task = asyncio.create_task(run())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait((task,))
    assert [(event.reason, event.elapsed_s) for event in events] == [("cancelled", 0.5)]


async def test_call_that_wants_no_notes_gets_none() -> None:
    call = make_call()
    await make_layer(Scripted(), events=Events())(call)
    assert call.notes is None
