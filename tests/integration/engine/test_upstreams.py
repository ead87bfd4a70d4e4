"""The resources that upstreams open besides transports: token fetching and name resolution."""

import asyncio
from time import monotonic
from typing import Any

from anabranch.core.exchange import Request
from anabranch.document.upstreams import Upstreams
from anabranch.plan.upstream import UpstreamPlan
from anabranch.policy.call import Call
from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.documents import upstream_plan
from tests.support.policies import Events


def upstream_of(**settings: Any) -> UpstreamPlan:
    return upstream_plan("flights", **settings)


def new_call() -> Call:
    return Call(Request("GET", "/flights"), deadline=monotonic() + 30, is_idempotent=True, is_required=True)


async def test_token_is_fetched_from_the_authority_and_sent_to_the_service() -> None:
    token = {"access_token": "abc", "token_type": "Bearer", "expires_in": 300}
    async with ScriptedUpstream({"/flights": {"json": []}}) as service, ScriptedUpstream({"POST /token": {"json": token}}) as authority:
        upstream = upstream_of(
            url=f"http://127.0.0.1:{service.port}",
            oauth2={"token_url": f"http://127.0.0.1:{authority.port}/token", "client_id": "us", "client_secret": "ours"},
        )
        async with Upstreams({"flights": upstream}) as upstreams:
            for _ in range(3):
                assert (await upstreams.policies["flights"](new_call())).status == 200
        assert len(authority.hits) == 1
        assert [dict(hit.headers)["authorization"] for hit in service.hits] == ["Bearer abc"] * 3
    assert len(asyncio.all_tasks()) == 1


async def test_names_are_resolved_and_their_addresses_used() -> None:
    events = Events()
    async with ScriptedUpstream({"/flights": {"json": []}}) as service:
        upstream = upstream_of(url=f"http://localhost:{service.port}", dns_ttl="5s")
        async with Upstreams({"flights": upstream}, observer=events) as upstreams:
            balance = upstreams.stacks["flights"].balance
            assert balance is not None
            async with asyncio.timeout(30):
                while all(endpoint.address.ip is None for endpoint in balance.targets):
                    await asyncio.sleep(0.001)
            assert "127.0.0.1" in {endpoint.address.ip for endpoint in balance.targets}
            balance.set_addresses([endpoint.address for endpoint in balance.targets if endpoint.address.ip == "127.0.0.1"])
            call = new_call()
            assert (await upstreams.policies["flights"](call)).status == 200
            assert call.address is not None
            assert call.address.ip == "127.0.0.1"
    assert ("balance", "addresses") in {(event.kind, event.reason) for event in events}
    assert len(asyncio.all_tasks()) == 1


async def test_unresolvable_name_is_reported_to_the_observer() -> None:
    events = Events()
    # A label has at most 63 characters, so no DNS server is queried.
    async with Upstreams({"flights": upstream_of(url=f"http://{'x' * 64}", dns_ttl="5s")}, observer=events):
        async with asyncio.timeout(30):
            while not events:
                await asyncio.sleep(0.001)
    assert [(event.kind, event.reason) for event in events[:1]] == [("balance", "resolve_failed")]
