import asyncio
from collections.abc import Callable

import pytest

from anabranch.core.budget import Budget
from anabranch.core.exchange import Answer
from anabranch.errors import (
    BreakerOpen,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    ProtocolError,
    QueueFull,
    ResponseTooLarge,
    StepError,
    UpstreamTimeout,
)
from anabranch.policy.retry import RetryLayer
from tests.support.clock import START
from tests.support.policies import OK, Act, Events, Scripted, answer, make_call

ON = ["connect", "timeout", "connection_lost", "502", "503", "504"]


def make_layer(
    next_: Scripted,
    *,
    attempts: int = 3,
    on: list[str] = ON,
    budget: Budget | None = None,
    random: Callable[[], float] = lambda: 0.5,
    events: Events | None = None,
    unix_now: float = 0.0,
) -> RetryLayer:
    return RetryLayer(
        next_,
        attempts=attempts,
        on=on,
        backoff_s=0.02,
        max_backoff_s=0.05,
        budget=budget or Budget(1.0),
        clock=asyncio.get_running_loop().time,
        random=random,
        upstream="flights",
        observer=events,
        wall_clock=lambda: unix_now,
    )


def waits(upstream: Scripted) -> list[float]:
    """Start times of the attempts, in seconds of loop time."""
    return [round(began - START, 6) for began in upstream.began]


@pytest.mark.parametrize(
    "bad",
    [
        ConnectError("refused"),
        ConnectTimeout("slow"),
        UpstreamTimeout("slow", may_be_processed=True),
        ConnectionLost("reset", may_be_processed=True),
        answer(502),
        answer(503),
        answer(504),
    ],
)
async def test_transient_failure_is_retried(bad: Act) -> None:
    upstream = Scripted(bad, OK)
    call = make_call()
    assert await make_layer(upstream)(call) is OK
    assert call.attempts == 2


@pytest.mark.parametrize(
    "bad", [answer(404), answer(500), answer(429), ProtocolError("junk"), ResponseTooLarge("big"), BreakerOpen("open"), QueueFull("full")]
)
async def test_permanent_failure_is_final(bad: Act) -> None:
    upstream = Scripted(bad, OK)
    if isinstance(bad, StepError):
        with pytest.raises(type(bad)):
            await make_layer(upstream)(make_call())
    else:
        assert await make_layer(upstream)(make_call()) is bad
    assert len(upstream.calls) == 1


async def test_only_failures_listed_in_the_document_are_retried() -> None:
    upstream = Scripted(answer(500), answer(502), OK)
    assert (await make_layer(upstream, on=["500"])(make_call())).status == 502
    upstream = Scripted(ConnectError("refused"), OK)
    with pytest.raises(ConnectError):
        await make_layer(upstream, on=["503", "timeout"])(make_call())


async def test_attempts_include_the_first_and_the_last_failure_is_returned() -> None:
    upstream = Scripted(ConnectError("1"), answer(503), ConnectionLost("3"), OK)
    with pytest.raises(ConnectionLost, match="3"):
        await make_layer(upstream)(make_call())
    assert len(upstream.calls) == 3
    upstream = Scripted(ConnectError("1"), ConnectError("2"), answer(503, b"3"), OK)
    assert (await make_layer(upstream)(make_call())).body == b"3"


async def test_backoff_has_full_jitter_and_doubles_up_to_the_maximum() -> None:
    upstream = Scripted(answer(503))
    draws = iter([0.5, 1.0, 1.0, 0.0])
    await make_layer(upstream, attempts=5, random=lambda: next(draws))(make_call())
    assert waits(upstream) == [0.0, 0.01, 0.05, 0.1, 0.1]


@pytest.mark.parametrize(
    "bad", [answer(503), ConnectionLost("reset", may_be_processed=True), UpstreamTimeout("slow", may_be_processed=True)]
)
async def test_call_that_may_have_been_processed_is_retried_only_when_idempotent(bad: Act) -> None:
    upstream = Scripted(bad, OK)
    await asyncio.gather(make_layer(upstream)(make_call(method="POST", is_idempotent=False)), return_exceptions=True)
    assert len(upstream.calls) == 1


async def test_call_that_never_reached_the_service_is_retried_whatever_its_method() -> None:
    upstream = Scripted(ConnectError("refused"), ConnectionLost("stale"), OK)
    assert await make_layer(upstream)(make_call(method="POST", is_idempotent=False)) is OK
    upstream = Scripted(ConnectError("refused"), answer(503), OK)
    assert (await make_layer(upstream)(make_call(method="POST", is_idempotent=False))).status == 503
    upstream = Scripted(ConnectError("refused"), ConnectionLost("reset", may_be_processed=True), OK)
    with pytest.raises(ConnectionLost):
        await make_layer(upstream)(make_call(method="POST", is_idempotent=False))


async def test_wait_that_would_exceed_the_deadline_is_not_started() -> None:
    events = Events()
    upstream = Scripted(answer(503))
    assert (await make_layer(upstream, random=lambda: 1.0, events=events)(make_call(seconds=0.02))).status == 503
    assert asyncio.get_running_loop().time() == START
    assert [(event.kind, event.reason) for event in events] == [("retry_denied", "deadline")]


async def test_timeout_at_the_deadline_is_not_retried() -> None:
    upstream = Scripted([1.0, UpstreamTimeout("slow")])
    with pytest.raises(UpstreamTimeout):
        await make_layer(upstream, random=lambda: 0.0)(make_call(seconds=1))
    assert len(upstream.calls) == 1


async def test_exhausted_budget_makes_failures_final() -> None:
    events = Events()
    upstream = Scripted(answer(503))
    layer = make_layer(upstream, budget=Budget(0.1, floor=0), events=events)
    for _ in range(50):
        await layer(make_call())
    assert len(upstream.calls) == 55
    assert {(event.kind, event.reason) for event in events} == {("retry", "503"), ("retry_denied", "budget")}


@pytest.mark.parametrize(
    ("asked", "begins_s"),
    [("2", 2.0), ("0", 0.01), ("soon", 0.01), ("Thu, 01 Jan 1970 00:01:03 GMT", 3.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.01)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_when_it_is_longer_than_the_backoff(asked: str, begins_s: float, status: int) -> None:
    upstream = Scripted(answer(status, retry_after=asked), OK)
    assert await make_layer(upstream, on=["429", "503"], unix_now=60.0)(make_call(seconds=10)) is OK
    assert waits(upstream) == pytest.approx([0.0, begins_s])


async def test_retry_after_beyond_the_deadline_makes_the_failure_final() -> None:
    upstream = Scripted(answer(503, retry_after="5"), OK)
    assert (await make_layer(upstream)(make_call(seconds=5))).status == 503
    assert asyncio.get_running_loop().time() == START


async def test_retry_after_of_other_statuses_is_ignored() -> None:
    upstream = Scripted(answer(502, retry_after="5"), OK)
    await make_layer(upstream)(make_call(seconds=10))
    assert waits(upstream) == [0.0, 0.01]


@pytest.mark.parametrize("rejection", [QueueFull("full"), BreakerOpen("open"), DeadlineExceeded("late")])
async def test_rejected_retry_returns_the_failure_before_it(rejection: StepError) -> None:
    events = Events()
    with pytest.raises(ConnectionLost):
        await make_layer(Scripted(ConnectionLost("reset"), rejection), events=events)(make_call())
    assert (await make_layer(Scripted(answer(503), rejection))(make_call())).status == 503
    assert [(event.kind, event.reason) for event in events] == [("retry", "connection_lost"), ("retry_denied", rejection.code)]


async def test_error_that_is_not_retryable_ends_the_retries_and_is_raised() -> None:
    with pytest.raises(ProtocolError):
        await make_layer(Scripted(ConnectError("refused"), ProtocolError("junk"), OK))(make_call())


async def test_cancellation_ends_the_wait() -> None:
    upstream = Scripted(answer(503, retry_after="5"), OK)
    layer = make_layer(upstream)

    async def run() -> Answer:
        return await layer(make_call(seconds=10))

    task = asyncio.create_task(run())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(upstream.calls) == 1


async def test_retries_are_reported_to_observer_and_notes() -> None:
    events = Events()
    call = make_call(wants_notes=True)
    await make_layer(Scripted(ConnectError("refused"), answer(503)), events=events)(call)
    assert [(event.kind, event.reason, event.attempt) for event in events] == [("retry", "connect_failed", 2), ("retry", "503", 3)]
    assert [event.elapsed_s for event in events] == [0.01, 0.02]
    assert call.notes == ["retry 2 after connect_failed, 10.0 ms later", "retry 3 after 503, 20.0 ms later"]


async def test_successful_call_reports_nothing() -> None:
    events = Events()
    call = make_call(wants_notes=True)
    await make_layer(Scripted(), events=events)(call)
    assert (events, call.notes) == ([], [])
