import asyncio
import contextlib

import pytest

from anabranch.config.model import Breaker as Settings
from anabranch.core.breaker import Breaker
from anabranch.core.exchange import Address, Answer
from anabranch.errors import (
    BreakerOpen,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    InvalidJSON,
    ProtocolError,
    QueueFull,
    ResponseTooLarge,
    TLSError,
    UpstreamError,
    UpstreamTimeout,
)
from anabranch.policy.breaker import BreakerLayer, FailureClassifier, report_change
from anabranch.policy.call import Call, Policy
from tests.support.policies import OK, Act, Events, Scripted, after, answer, make_call

EVERYTHING = Settings().on


def make_layer(
    next_: Policy, *, on: list[str] | None = None, events: Events | None = None, minimum_calls: int = 2, slow_after_s: float | None = None
) -> BreakerLayer:
    breaker = Breaker(window_s=10, failure_rate=0.5, minimum_calls=minimum_calls, open_for_s=5, probes=2, slow_after_s=slow_after_s)
    return BreakerLayer(
        next_,
        breaker=breaker,
        classifier=FailureClassifier(EVERYTHING if on is None else on),
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=events,
    )


async def run(layer: BreakerLayer, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(UpstreamError, QueueFull, DeadlineExceeded, RuntimeError):
            await layer(make_call(seconds=60))


async def test_open_breaker_rejects_without_calling_the_inner_layers() -> None:
    next_ = Scripted(answer(503))
    layer = make_layer(next_)
    await run(layer, 2)
    await asyncio.sleep(2)
    call = make_call(wants_notes=True)
    with pytest.raises(BreakerOpen) as caught:
        await layer(call)
    assert caught.value.retry_after_s == 3
    assert (len(next_.calls), call.attempts) == (2, 0)
    assert call.notes == ["breaker open: nothing was sent"]


async def test_answer_passes_through_whatever_its_status() -> None:
    bad = answer(500)
    assert await make_layer(Scripted(bad))(make_call()) is bad


@pytest.mark.parametrize(
    "failure", [answer(500), answer(503), UpstreamTimeout("x"), ConnectError("x"), ConnectTimeout("x"), TLSError("x"), ConnectionLost("x"), ProtocolError("x")]
)  # fmt: skip
async def test_failures_open_it(failure: Act) -> None:
    layer = make_layer(Scripted(failure))
    await run(layer, 2)
    assert layer.breaker.state == "open"


@pytest.mark.parametrize(
    "act", [OK, answer(404), answer(429), QueueFull("x"), DeadlineExceeded("x"), ResponseTooLarge("x"), InvalidJSON("x"), RuntimeError("x")]
)
async def test_errors_not_caused_by_the_upstream_do_not_open_it(act: Act) -> None:
    layer = make_layer(Scripted(act))
    await run(layer, 30)
    assert layer.breaker.state == "closed"


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("5xx", answer(500)),
        ("timeout", UpstreamTimeout("x")),
        ("connect", ConnectError("x")),
        ("connection_lost", ConnectionLost("x")),
        ("protocol_error", ProtocolError("x")),
    ],
)
async def test_unlisted_kind_of_failure_does_not_count(kind: str, failure: Act) -> None:
    layer = make_layer(Scripted(failure), on=[other for other in EVERYTHING if other != kind])
    await run(layer, 30)
    assert layer.breaker.state == "closed"
    layer = make_layer(Scripted(failure), on=[kind])
    await run(layer, 2)
    assert layer.breaker.state == "open"


async def test_cancellation_by_the_client_is_not_a_failure() -> None:
    next_ = Scripted([30.0, OK])
    layer = make_layer(next_)
    for _ in range(30):
        task = asyncio.ensure_future(layer(make_call(seconds=60)))
        after(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (next_.cancelled, layer.breaker.state) == (30, "closed")


async def test_cancelled_probe_gives_its_permit_back() -> None:
    next_ = Scripted(answer(500), answer(500), [30.0, OK], [30.0, OK], OK)
    layer = make_layer(next_)
    await run(layer, 2)
    await asyncio.sleep(5)
    probes = [asyncio.ensure_future(layer(make_call(seconds=60))) for _ in range(2)]
    await asyncio.sleep(1)
    with pytest.raises(BreakerOpen):
        await layer(make_call())
    for probe in probes:
        probe.cancel()
    await asyncio.wait(probes)
    await run(layer, 2)
    assert layer.breaker.state == "closed"


async def test_time_in_the_queue_does_not_count_as_slow() -> None:
    async def queued(call: Call) -> Answer:
        await asyncio.sleep(5)
        call.queue_s += 5
        return OK

    layer = make_layer(queued, minimum_calls=1, slow_after_s=1)
    await run(layer, 3)
    assert layer.breaker.state == "closed"


async def test_slow_calls_open_it() -> None:
    layer = make_layer(Scripted([1.5, OK]), slow_after_s=1)
    await run(layer, 2)
    assert layer.breaker.state == "open"


def test_every_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    report_change(None, "orders", "open", None)
    report_change(None, "orders", "half_open", Address.parse("http://10.0.0.1:8080"))
    report_change(None, "orders", "closed", None)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "the breaker of orders is open"),
        ("INFO", "the breaker of orders at 10.0.0.1:8080 is half open"),
        ("INFO", "the breaker of orders is closed"),
    ]


async def test_every_change_of_state_is_reported_once() -> None:
    events = Events()
    layer = make_layer(Scripted(answer(500), answer(500), answer(500), OK), events=events)
    await run(layer, 2)
    await asyncio.sleep(5)
    await run(layer, 1)
    await asyncio.sleep(5)
    await run(layer, 3)
    assert [(event.kind, event.reason, event.upstream) for event in events] == [
        ("breaker", state, "flights") for state in ("open", "half_open", "open", "half_open", "closed")
    ]
