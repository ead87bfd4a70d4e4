import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from anabranch.core.exchange import Address
from anabranch.errors import UpstreamError
from anabranch.policy.attempt import AttemptLayer
from anabranch.policy.token import One, TokenLayer, TokenSource
from anabranch.testing.scripted.upstream import ScriptedUpstream
from anabranch.upstream.wire import WireTransport
from tests.support.policies import make_call


def grant(token: str) -> dict[str, object]:
    return {"json": {"access_token": token, "token_type": "Bearer", "expires_in": 3600}}


@asynccontextmanager
async def layer_between(authority: ScriptedUpstream, upstream: ScriptedUpstream) -> AsyncIterator[TokenLayer]:
    clock = asyncio.get_running_loop().time
    async with WireTransport() as to_authority, WireTransport() as to_upstream:
        source = TokenSource(
            to_authority,
            token_url=authority.url + "/oauth/token",
            client_id="gateway",
            client_secret="s3cret",
            form={"grant_type": "client_credentials", "scope": "flights.read", "audience": "flights"},
            clock=clock,
            random=lambda: 0.5,
            upstream="flights",
        )
        attempt = AttemptLayer(
            to_upstream, address=Address.parse(upstream.url), timeout_s=None, deadline_header=None, clock=clock, upstream="flights"
        )
        try:
            yield TokenLayer(attempt, sources=One(source))
        finally:
            await source.aclose()


async def test_many_calls_at_once_fetch_one_token() -> None:
    async with (
        ScriptedUpstream({"POST /oauth/token": {"delay_s": 0.05, **grant("first")}}) as authority,
        ScriptedUpstream({"*": {"json": 1}}) as upstream,
        layer_between(authority, upstream) as layer,
    ):
        answers = await asyncio.gather(*(layer(make_call(seconds=30)) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        assert {hit.header("authorization") for hit in upstream.hits} == {"Bearer first"}
        assert len(authority.hits) == 1
        assert authority.hits[0].header("authorization") == "Basic Z2F0ZXdheTpzM2NyZXQ="
        assert authority.hits[0].body == b"grant_type=client_credentials&scope=flights.read&audience=flights"


async def test_revoked_token_is_replaced_without_the_caller_noticing() -> None:
    async with (
        ScriptedUpstream({"POST /oauth/token": [grant("first"), grant("second")]}) as authority,
        ScriptedUpstream({"*": [{"json": 1}, {"status": 401}, {"json": 2}]}) as upstream,
        layer_between(authority, upstream) as layer,
    ):
        assert [(await layer(make_call(seconds=30))).body for _ in range(2)] == [b"1", b"2"]
        assert [hit.header("authorization") for hit in upstream.hits] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_unavailable_authority_is_called_once_for_a_burst() -> None:
    async with (
        ScriptedUpstream({"POST /oauth/token": {"status": 503}}) as authority,
        ScriptedUpstream({"*": {"json": 1}}) as upstream,
        layer_between(authority, upstream) as layer,
    ):
        results = await asyncio.gather(*(layer(make_call(seconds=30)) for _ in range(30)), return_exceptions=True)
        assert all(isinstance(result, UpstreamError) for result in results)
        with pytest.raises(UpstreamError, match="the authority answered 503"):
            await layer(make_call(seconds=30))
        assert (len(authority.hits), len(upstream.hits)) == (1, 0)
