import asyncio
import socket
import ssl
from collections.abc import Callable

import trustme

from anabranch.config.model import Breaker as Settings
from anabranch.core.balance import picker_of
from anabranch.core.exchange import Address
from anabranch.errors import UpstreamError
from anabranch.policy.attempt import AttemptLayer
from anabranch.policy.balance import BalanceLayer
from anabranch.policy.breaker import FailureClassifier
from anabranch.policy.stack import build_stack
from anabranch.policy.tools import Tools
from anabranch.upstream.names import SocketAddress
from anabranch.upstream.resolve import Resolver
from anabranch.upstream.wire import WireTransport
from tests.support.clock import FakeClock
from tests.support.documents import upstream_plan
from tests.support.policies import Events, make_call
from tests.support.scripted import ScriptedUpstream

HELLO = {"*": {"json": {"hello": 1}}}


def make_layer(
    transport: WireTransport, *addresses: Address, clock: Callable[[], float] | None = None, events: Events | None = None
) -> BalanceLayer:
    time = asyncio.get_running_loop().time
    return BalanceLayer(
        AttemptLayer(transport, address=None, timeout_s=None, deadline_header=None, clock=time, upstream="flights"),
        addresses=addresses,
        picker=picker_of("round_robin", lambda: 0.5),
        classifier=FailureClassifier(Settings().on),
        new_breaker=None,
        clock=clock or time,
        upstream="flights",
        observer=events,
    )


async def run(layer: BalanceLayer, times: int) -> int:
    """Make `calls` calls; returns how many failed."""
    failed = 0
    for _ in range(times):
        try:
            failed += (await layer(make_call(seconds=30))).status != 200
        except UpstreamError:
            failed += 1
    return failed


async def test_dead_instance_fails_few_calls_and_is_used_again_after_its_return() -> None:
    events, clock = Events(), FakeClock()
    async with ScriptedUpstream(HELLO) as one, ScriptedUpstream(HELLO) as two, WireTransport() as transport:
        layer = make_layer(transport, Address.parse(one.url), Address.parse(two.url), clock=clock, events=events)
        assert await run(layer, 10) == 0
        assert (len(one.hits), len(two.hits)) == (5, 5)
        port = two.port
        await two.stop()
        assert await run(layer, 100) <= 6
        await two.start(port)
        clock.advance(6.0)
        assert await run(layer, 10) == 0
        assert len(two.hits) == 10
    assert events.kinds() == ["eject", "restore"]


async def test_second_attempt_of_a_call_reaches_another_instance() -> None:
    async with ScriptedUpstream(HELLO) as one, ScriptedUpstream(HELLO) as two, WireTransport() as transport:
        layer = make_layer(transport, Address.parse(one.url), Address.parse(two.url))
        for _ in range(5):
            call = make_call(seconds=30)
            await layer(call)
            await layer(call)
        assert (len(one.hits), len(two.hits)) == (5, 5)


async def test_headless_service_name_uses_all_its_addresses_and_follows_changes() -> None:
    found = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str) -> list[SocketAddress]:
        assert host == "flights.test"
        return [(socket.AF_INET, (ip, 0)) for ip in found]

    async with (
        ScriptedUpstream(HELLO, host="127.0.0.1") as one,
        ScriptedUpstream(HELLO, host="127.0.0.2") as two,
        WireTransport() as transport,
    ):
        await two.stop()
        await two.start(one.port)
        address = Address("http", "flights.test", one.port, "/api")
        layer = make_layer(transport, address)
        resolver = Resolver((address,), ttl_s=60, on_change=layer.set_addresses, random=lambda: 0.5, lookup=lookup)
        await resolver.refresh()
        assert await run(layer, 10) == 0
        assert (len(one.hits), len(two.hits)) == (5, 5)
        assert one.hits[0].header("host") == f"flights.test:{one.port}"
        assert one.hits[0].path == "/api/"
        found = ["127.0.0.2"]
        await resolver.refresh()
        assert await run(layer, 10) == 0
        assert (len(one.hits), len(two.hits)) == (5, 15)


async def test_tls_verifies_a_resolved_address_by_its_host_name() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("flights.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)

    async def lookup(host: str) -> list[SocketAddress]:
        return [(socket.AF_INET, ("127.0.0.1", 0))]

    async with ScriptedUpstream(HELLO, ssl=server) as upstream, WireTransport(context=client) as transport:
        for host, failures in (("flights.test", 0), ("other.test", 1)):
            address = Address("https", host, upstream.port)
            layer = make_layer(transport, address)
            await Resolver((address,), ttl_s=60, on_change=layer.set_addresses, random=lambda: 0.5, lookup=lookup).refresh()
            assert await run(layer, 1) == failures


async def test_dead_instance_fails_no_idempotent_call_with_retries() -> None:
    async with ScriptedUpstream(HELLO) as one, ScriptedUpstream(HELLO) as two, WireTransport() as transport:
        settings = upstream_plan("flights", urls=[one.url, two.url], retry={"budget": "20%"}, breaker={})
        stack = build_stack(settings, Tools(transport=transport, clock=asyncio.get_running_loop().time, random=lambda: 0.5))
        await two.stop()
        for _ in range(100):
            call = make_call(seconds=30)
            assert (await stack.call(call)).status == 200
            assert call.address == Address.parse(one.url)
        await stack.aclose()
        assert len(one.hits) == 100


async def test_hanging_instance_is_ejected_by_its_timeouts() -> None:
    async with ScriptedUpstream(HELLO) as one, ScriptedUpstream({"*": {"hang": True}}) as two, WireTransport() as transport:
        settings = upstream_plan("flights", urls=[one.url, two.url], timeout="500ms", retry={"budget": "20%"})
        stack = build_stack(settings, Tools(transport=transport, clock=asyncio.get_running_loop().time, random=lambda: 0.5))
        for _ in range(50):
            assert (await stack.call(make_call(seconds=30))).status == 200
        await stack.aclose()
        assert (len(one.hits), len(two.hits)) == (50, 5)
