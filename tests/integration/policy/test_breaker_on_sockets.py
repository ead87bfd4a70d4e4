import asyncio
import contextlib

import pytest

from anabranch.config.model import Breaker as Settings
from anabranch.core.breaker import Breaker
from anabranch.core.exchange import Address
from anabranch.errors import BreakerOpen, UpstreamError
from anabranch.policy.attempt import AttemptLayer
from anabranch.policy.breaker import BreakerLayer, FailureClassifier
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.wire import WireTransport
from tests.support.clock import FakeClock
from tests.support.policies import Events, make_call


def make_layer(transport: WireTransport, url: str, events: Events, clock: FakeClock | None = None) -> BreakerLayer:
    """A layer whose breaker uses a clock controlled by the test, so that it stays open exactly as long as needed."""
    attempt = AttemptLayer(
        transport,
        address=Address.parse(url),
        timeout_s=30.0,
        deadline_header=None,
        clock=asyncio.get_running_loop().time,
        upstream="flights",
        observer=None,
    )
    return BreakerLayer(
        attempt,
        breaker=Breaker(window_s=10, failure_rate=0.5, minimum_calls=4, open_for_s=0.2, probes=2),
        classifier=FailureClassifier(Settings().on),
        clock=clock or FakeClock(),
        upstream="flights",
        observer=events,
    )


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"reset": "request"}, {"json": "x" * 5000, "reset": "body"}],
    ids=["error status", "reset before the answer", "reset in the body"],
)
async def test_failing_upstream_is_not_called_until_it_is_probed(fault: dict[str, object]) -> None:
    events, clock = Events(), FakeClock()
    async with ScriptedUpstream({"*": fault}) as upstream, WireTransport() as transport:
        layer = make_layer(transport, upstream.url, events, clock)
        for _ in range(4):
            with contextlib.suppress(UpstreamError):
                await layer(make_call(seconds=30, is_idempotent=False))
        hits, accepted = len(upstream.hits), upstream.accepted
        for _ in range(50):
            with pytest.raises(BreakerOpen):
                await layer(make_call())
        assert (len(upstream.hits), upstream.accepted) == (hits, accepted)
        upstream.on("*", {"json": {"ok": True}})
        clock.advance(0.25)
        for _ in range(10):
            assert (await layer(make_call(seconds=30))).status == 200
    assert [event.reason for event in events] == ["open", "half_open", "closed"]


async def test_refused_connections_open_the_breaker() -> None:
    async with ScriptedUpstream({}) as upstream:
        url = upstream.url
    async with WireTransport() as transport:
        layer = make_layer(transport, url, Events())
        for _ in range(4):
            with pytest.raises(UpstreamError):
                await layer(make_call(seconds=30))
        with pytest.raises(BreakerOpen):
            await layer(make_call())


async def test_half_open_lets_only_the_probes_reach_the_socket() -> None:
    async with ScriptedUpstream({"*": [{"status": 500}] * 4 + [{"delay_s": 0.2, "json": 1}]}) as upstream, WireTransport() as transport:
        clock = FakeClock()
        layer = make_layer(transport, upstream.url, Events(), clock)
        for _ in range(4):
            await layer(make_call(seconds=30))
        clock.advance(0.25)
        results = await asyncio.gather(*(layer(make_call(seconds=30)) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(result, BreakerOpen) for result in results) == 18
        assert len(upstream.hits) == 6
        assert layer.breaker.state == "closed"
