import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.exchange import Address, Answer, Request
from anabranch.errors import BreakerOpen, ConnectError, QueueFull, UpstreamTimeout
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.event import PolicyEvent
from anabranch.policy.hedge import HedgeLayer
from anabranch.policy.retry import RetryLayer
from anabranch.policy.stack import Stack, build_stack, describe
from anabranch.policy.token import TokenLayer
from anabranch.policy.tools import Tools
from tests.support.clock import START, FakeTimeLoop
from tests.support.documents import upstream_plan
from tests.support.policies import OK, Events, Scripted, answer, make_call

ONE = "http://127.0.0.1:9101"
TWO = "http://127.0.0.1:9102"
FULL: dict[str, Any] = {
    "url": ONE,
    "timeout": "800ms",
    "retry": {},
    "hedge": {"after": "p95"},
    "breaker": {},
    "oauth2": {"token_url": "https://auth.test/token", "client_id": "us", "client_secret": "s3cret"},
}


def upstream_of(**settings: Any) -> UpstreamPlan:
    return upstream_plan("flights", **settings)


def build(upstream: UpstreamPlan, transport: Scripted, *, events: Events | None = None, authority: Scripted | None = None) -> Stack:
    clock = asyncio.get_running_loop().time
    return build_stack(upstream, Tools(transport=transport, clock=clock, random=lambda: 0.5, observer=events, authority=authority))


def layers(stack: Stack) -> tuple[str, ...]:
    """The layers by the names of their modules, outermost first."""
    return tuple(type(layer).__module__.rpartition(".")[2] for layer in stack.layers)


async def test_layers_that_have_nothing_to_do_are_not_built() -> None:
    stack = build(upstream_of(), Scripted())
    assert layers(stack) == ("coalesce", "bulkhead", "attempt")
    assert (stack.balance, stack.breaker, stack.find(RetryLayer), stack.find(HedgeLayer), stack.find(TokenLayer)) == (None,) * 5
    assert await stack.call(make_call()) is OK


async def test_one_attempt_needs_no_retry_layer() -> None:
    assert "retry" not in layers(build(upstream_of(retry={"attempts": 1}), Scripted()))


async def test_all_layers_are_in_the_documented_order() -> None:
    stack = build(upstream_of(**FULL), Scripted())
    assert layers(stack) == ("coalesce", "retry", "hedge", "breaker", "bulkhead", "token", "attempt")
    stack = build(upstream_of(**{key: value for key, value in FULL.items() if key != "url"}, urls=[ONE, TWO]), Scripted())
    assert layers(stack) == ("coalesce", "retry", "hedge", "balance", "bulkhead", "token", "attempt")
    assert stack.breaker is None
    assert stack.balance is not None
    assert all(endpoint.breaker is not None for endpoint in stack.balance.targets)


async def test_single_host_name_with_periodic_resolution_is_balanced() -> None:
    stack = build(upstream_of(dns_ttl="5s"), Scripted())
    assert layers(stack) == ("coalesce", "balance", "bulkhead", "attempt")
    assert stack.balance is not None
    stack.balance.set_addresses([Address("http", "127.0.0.1", 9101, ip="127.0.0.2")])
    call = make_call()
    await stack.call(call)
    assert call.address is not None
    assert call.address.ip == "127.0.0.2"


@pytest.mark.parametrize("adaptive", ["gradient", "aimd"])
async def test_adaptive_limit_starts_at_the_configured_limit(adaptive: str) -> None:
    stack = build(upstream_of(concurrency={"limit": 20, "adaptive": adaptive}), Scripted())
    assert stack.bulkhead.limit == 20
    assert await stack.call(make_call()) is OK


async def test_retry_passes_through_the_breaker_each_time_and_stops_when_it_opens() -> None:
    upstream = Scripted(ConnectError("refused"))
    stack = build(upstream_of(retry={"attempts": 5}, breaker={"minimum_calls": 2, "open_for": "5s"}), upstream)
    with pytest.raises(ConnectError):
        await stack.call(make_call())
    assert len(upstream.requests) == 2
    assert stack.breaker is not None
    assert stack.breaker.state == "open"
    with pytest.raises(BreakerOpen):
        await stack.call(make_call())
    assert len(upstream.requests) == 2


async def test_slot_is_free_while_a_retry_waits() -> None:
    upstream = Scripted(answer(503, retry_after="3"), OK)
    stack = build(upstream_of(retry={}, concurrency={"limit": 1, "queue": 0}), upstream)

    async def run() -> Answer:
        return await stack.call(make_call(seconds=10))

    task = asyncio.create_task(run())
    await asyncio.sleep(1)
    assert stack.bulkhead.in_use == 0
    assert await stack.call(make_call()) is OK
    assert await task is OK


async def test_rejection_by_the_bulkhead_is_not_a_failure_for_the_breaker() -> None:
    upstream = Scripted([1.0, OK])
    stack = build(upstream_of(breaker={"minimum_calls": 1}, concurrency={"limit": 1, "queue": 0}), upstream)

    async def run() -> Answer:
        return await stack.call(make_call(seconds=10))

    task = asyncio.create_task(run())
    await asyncio.sleep(0.1)
    for _ in range(5):
        with pytest.raises(QueueFull):
            await stack.call(make_call())
    assert stack.breaker is not None
    assert stack.breaker.state == "closed"
    await task


async def test_retry_goes_to_another_address() -> None:
    upstream = Scripted(ConnectError("refused"), OK)
    events = Events()
    stack = build(upstream_of(urls=[ONE, TWO], retry={}), upstream, events=events)
    assert await stack.call(make_call()) is OK
    attempts = [event.address.port for event in events if event.kind == "attempt" and event.address is not None]
    assert sorted(attempts) == [9101, 9102]


async def test_hedge_goes_to_another_address() -> None:
    upstream = Scripted([10.0, OK], [0.01, OK])
    events = Events()
    stack = build(upstream_of(urls=[ONE, TWO], hedge={"after": "50ms"}), upstream, events=events)
    call = make_call()
    assert await stack.call(call) is OK
    hedge, won = (event for event in events if event.kind in ("hedge", "hedge_won"))
    assert hedge.address != won.address == call.address
    assert upstream.running == stack.bulkhead.in_use == 0


async def test_retries_of_a_shared_call_are_made_once() -> None:
    upstream = Scripted([0.01, ConnectError("refused")], [0.01, OK])
    stack = build(upstream_of(retry={}), upstream)

    async def run() -> Answer:
        return await stack.call(make_call(is_coalesced=True))

    assert await asyncio.gather(*(run() for _ in range(10))) == [OK] * 10
    assert len(upstream.requests) == 2


async def test_token_and_deadline_header_are_on_the_wire_and_not_on_the_call() -> None:
    authority = Scripted(Answer(200, [], b'{"access_token":"t","token_type":"Bearer","expires_in":300}'))
    upstream = Scripted()
    stack = build(upstream_of(**FULL, deadline_header="X-Deadline-Ms"), upstream, authority=authority)
    call = make_call(seconds=0.5)
    assert await stack.call(call) is OK
    assert upstream.requests[0].extra == ((b"authorization", b"Bearer t"), (b"x-deadline-ms", b"500"))
    assert call.request.extra == ()
    assert len(authority.requests) == 1
    await stack.aclose()
    await stack.aclose()


async def test_one_observer_sees_every_layer() -> None:
    events = Events()
    stack = build(upstream_of(retry={}, concurrency={"limit": 1}), Scripted([0.1, answer(503)], [0.1, OK]), events=events)

    async def run() -> Answer:
        return await stack.call(make_call(is_coalesced=True, seconds=5))

    await asyncio.gather(run(), run(), stack.call(make_call(seconds=5)))
    assert {event.kind for event in events} == {"coalesce", "queue", "attempt", "retry"}
    assert all(isinstance(event, PolicyEvent) and event.upstream == "flights" for event in events)


async def test_no_combination_of_layers_exceeds_the_deadline() -> None:
    class Hanging(Scripted):
        async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
            self.requests.append(request)
            await asyncio.sleep(deadline - asyncio.get_running_loop().time())
            raise UpstreamTimeout("slow", may_be_processed=True)

    upstream = Hanging()
    settings: dict[str, Any] = {"timeout": "100ms", "retry": {"attempts": 10}, "hedge": {"after": "50ms"}, "urls": [ONE, TWO]}
    stack = build(upstream_of(**settings), upstream)
    with pytest.raises(UpstreamTimeout):
        await stack.call(make_call(seconds=0.75))
    assert asyncio.get_running_loop().time() <= START + 0.75 + 1e-9
    assert len(upstream.requests) > 3
    assert len(asyncio.all_tasks()) == 1


settings_of_upstreams = st.fixed_dictionaries(
    {},
    optional={
        "retry": st.sampled_from([{}, {"attempts": 1}, {"attempts": 4, "on": [503]}]),
        "hedge": st.sampled_from([{"after": "p95"}, {"after": "50ms"}]),
        "breaker": st.just({}),
        "urls": st.sampled_from([[ONE], [ONE, TWO]]),
        "dns_ttl": st.just("5s"),
        "oauth2": st.just(FULL["oauth2"]),
        "timeout": st.just("800ms"),
        "concurrency": st.sampled_from([{"limit": 64, "queue_timeout": "100ms"}, {"limit": 10, "adaptive": "aimd"}]),
    },
)


@given(settings_of_upstreams)
def test_description_names_exactly_the_layers_that_are_built(settings: dict[str, Any]) -> None:
    async def run() -> tuple[str, ...]:
        return layers(build(upstream_of(**settings), Scripted()))

    lines = describe(upstream_of(**settings))
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        assert tuple(line.split()[0] for line in lines) == runner.run(run())
    assert "s3cret" not in " ".join(lines)


def test_description_contains_the_key_figures() -> None:
    assert describe(upstream_of(**FULL)) == [
        "coalesce identical calls that enable it",
        "retry up to 3 attempts on connect, timeout, connection_lost, 502, 503, 504, budget 10%",
        "hedge after p95, budget 5%",
        "breaker at 50% failures of 20 calls in 10s, open for 5s",
        "bulkhead 256 at once, 1024 waiting",
        "token by client credentials",
        "attempt within 800ms",
    ]
    assert describe(
        upstream_of(
            urls=[ONE, TWO], dns_ttl="30s", breaker={}, hedge={"after": "50ms"},
            concurrency={"limit": 64, "queue_timeout": "100ms", "adaptive": "gradient"},
        )
    ) == [
        "coalesce identical calls that enable it",
        "hedge after 50ms, budget 5%",
        "balance round_robin over 2 addresses resolved every 30s, each with a breaker at 50% failures of 20 calls in 10s",
        "bulkhead 64 (gradient, 8 to 1024) at once, 1024 waiting up to 100ms",
        "attempt until the deadline",
    ]  # fmt: skip
