"""Opaque tokens, about which an authority is asked. Time is simulated."""

import asyncio
import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs

import pytest

from anabranch.config.auth.introspection import Introspection
from anabranch.core.exchange import Request
from anabranch.errors import ConnectError, UpstreamTimeout
from anabranch.guard.auth.introspection import INACTIVE_S, MOST_AT_ONCE, IntrospectionAuthenticator, build
from anabranch.guard.auth.seam import CannotAuthenticate, InvalidCredential
from anabranch.guard.auth.token import MOST_BYTES
from anabranch.guard.tools import Tools
from tests.support.authority import Authority, Presented, bearing
from tests.support.tokens import NOW

SECRET = "s3cret:/+ &"


def clock() -> float:
    """The loop's simulated time, as seconds since the epoch."""
    return NOW + asyncio.get_running_loop().time() - 1000


def active(**members: object) -> bytes:
    return json.dumps({"active": True, "sub": "alice", **members}).encode()


def make(authority: Authority, **settings: Any) -> IntrospectionAuthenticator:
    source = Introspection.model_validate(
        {"url": "https://id.example/introspect?v=1", "client_id": "gate way", "client_secret": SECRET, "cache": "30s", **settings}
    )
    return build("opaque", source, Tools(clock=clock, opener=authority.open))


async def reason(authenticator: IntrospectionAuthenticator, token: str) -> str:
    with pytest.raises((InvalidCredential, CannotAuthenticate)) as caught:
        await authenticator.authenticate(bearing(token))
    if isinstance(caught.value, InvalidCredential):
        assert caught.value.challenge == 'error="invalid_token"'
        return caught.value.reason
    assert isinstance(caught.value, CannotAuthenticate)
    return f"cannot: {caught.value.reason}"


async def sub(authenticator: IntrospectionAuthenticator, token: str = "t1") -> str:
    principal = await authenticator.authenticate(bearing(token))
    assert principal is not None
    return principal.sub


def form_of(request: Request) -> dict[str, list[str]]:
    assert isinstance(request.body, bytes)
    return parse_qs(request.body.decode(), strict_parsing=True)


async def test_the_principal_is_what_the_authority_says() -> None:
    answer = active(client_id="web", username="Alice", scope="read write", exp=NOW + 3600)
    async with make(Authority(answer)) as opaque:
        principal = await opaque.authenticate(bearing("t1"))

        assert principal is not None
        assert (principal.sub, principal.name, principal.via, principal.credential) == ("alice", "Alice", "opaque", b"t1")
        assert (principal.claims, principal.expires_at) == (answer, NOW + 3600 + 30)
        assert opaque.recall(bearing("t1")) is principal
        assert opaque.recall(bearing("t2")) is None
        assert opaque.recall(Presented()) is None
        assert await opaque.authenticate(Presented()) is None


async def test_how_the_authority_is_asked() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        await sub(opaque, "a/b+c==")
    request = authority.requests[0]
    fields = dict(request.headers.pairs)
    assert (request.method, authority.asked) == ("POST", ["https://id.example/introspect?v=1"])
    assert fields[b"content-type"] == b"application/x-www-form-urlencoded"
    assert fields[b"accept"] == b"application/json"
    assert b64decode(fields[b"authorization"].removeprefix(b"Basic ")) == b"gate+way:s3cret%3A%2F%2B+%26"
    assert form_of(request) == {"token": ["a/b+c=="], "token_type_hint": ["access_token"]}


async def test_the_secret_may_be_in_the_form() -> None:
    authority = Authority(active())
    async with make(authority, client_auth="post") as opaque:
        await sub(opaque)
    assert b"authorization" not in dict(authority.requests[0].headers.pairs)
    assert form_of(authority.requests[0])["client_secret"] == [SECRET]


async def test_an_answer_is_used_for_a_while_and_then_asked_for_again() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        await sub(opaque)
        await asyncio.sleep(29)
        assert opaque.recall(bearing("t1")) is not None
        await asyncio.sleep(2)
        assert opaque.recall(bearing("t1")) is None

        authority.body = b'{"active":false}'
        assert await reason(opaque, "t1") == "inactive"
        assert len(authority.asked) == 2


async def test_an_answer_is_not_used_beyond_the_expiry_of_the_token() -> None:
    authority = Authority(active(exp=NOW + 5))
    async with make(authority, cache="1h") as opaque:
        await sub(opaque)
        await asyncio.sleep(36)

        assert opaque.recall(bearing("t1")) is None
        assert await reason(opaque, "t1") == "expired"


async def test_without_a_cache_every_request_asks() -> None:
    authority = Authority(active())
    async with make(authority, cache="0s") as opaque:
        await sub(opaque)
        assert opaque.recall(bearing("t1")) is None
        await sub(opaque)
        authority.body = b'{"active":false}'
        assert [await reason(opaque, "t1") for _ in range(2)] == ["inactive", "inactive"]
    assert len(authority.asked) == 4


async def test_all_who_send_a_token_share_one_question() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        found = await asyncio.gather(*(opaque.authenticate(bearing("t1")) for _ in range(50)))
        assert len({id(principal) for principal in found}) == 1
        authority.body = b'{"active":false}'
        assert set(await asyncio.gather(*(reason(opaque, "t2") for _ in range(50)))) == {"inactive"}
    assert len(authority.asked) == 2


async def test_a_client_that_goes_away_takes_the_answer_from_nobody() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        first, second = (asyncio.create_task(opaque.authenticate(bearing("t1"))) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await second is not None
    assert (len(authority.asked), authority.is_closed) == (1, True)


async def test_closing_ends_the_questions() -> None:
    authority = Authority(active())
    authority.delay_s = 1e6
    async with make(authority) as opaque:
        waiting = asyncio.create_task(reason(opaque, "t1"))
        await asyncio.sleep(1)
    assert await waiting == "cannot: closed"


async def test_an_inactive_token_is_not_asked_about_again_at_once() -> None:
    authority = Authority(b'{"active":false}')
    async with make(authority) as opaque:
        assert [await reason(opaque, "t1") for _ in range(3)] == ["inactive"] * 3
        assert len(authority.asked) == 1
        authority.body = active()
        await asyncio.sleep(INACTIVE_S)
        assert await sub(opaque) == "alice"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"active":false,"sub":"alice","exp":9999999999}', "inactive"),
        (active(exp=NOW - 31), "expired"),
        (active(exp=0), "expired"),
        (active(nbf=NOW + 60), "not_yet_valid"),
        (active(exp="soon"), "malformed"),
        (active(aud="bank"), "audience"),
        (active(aud=["bank"]), "audience"),
        (b'{"active":true,"aud":"shop"}', "subject"),
        (active(sub=7, aud="shop"), "subject"),
        (b'{"active":"true","sub":"alice"}', "cannot: no_answer"),
        (b'{"active":1,"sub":"alice"}', "cannot: no_answer"),
        (b'{"sub":"alice"}', "cannot: no_answer"),
        (b'{"active":false,"active":true,"sub":"alice"}', "cannot: no_answer"),
        (b"[true]", "cannot: no_answer"),
        (b"", "cannot: no_answer"),
        (b"<html>", "cannot: no_answer"),
        (b"eyJhbGciOiJub25lIn0.e30.", "cannot: no_answer"),
        (b'{"active":' + b"[" * 100_000, "cannot: no_answer"),
    ],
)
async def test_answers_that_let_nobody_in(answer: bytes, expected: str) -> None:
    async with make(Authority(answer), audience="shop") as opaque:
        assert await reason(opaque, "t1") == expected
        assert opaque.recall(bearing("t1")) is None


@pytest.mark.parametrize("aud", ["shop", ["bank", "shop"]])
async def test_the_audience_may_be_one_or_several(aud: object) -> None:
    async with make(Authority(active(aud=aud)), audience=["shop", "store"]) as opaque:
        assert await sub(opaque) == "alice"


async def test_an_authority_that_is_away_keeps_out_only_those_that_are_not_remembered() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        await sub(opaque)
        for failure, status in ((ConnectError("refused"), 200), (UpstreamTimeout("no answer"), 200), (None, 401), (None, 302), (None, 500)):
            authority.failure, authority.status = failure, status
            assert await reason(opaque, "t2") == "cannot: no_answer"
            assert opaque.recall(bearing("t1")) is not None
        assert list(opaque.notes()) == ["the authority of authentication opaque does not answer (the authority answered 500)"]
        authority.failure, authority.status = None, 200

        assert await sub(opaque, "t2") == "alice"
        assert list(opaque.notes()) == []


async def test_what_is_no_token_is_not_asked_about() -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        found = [await reason(opaque, token) for token in ("", "a b", "a,b", "ü", "a=b", "=", "a\x00", "x" * (MOST_BYTES + 1))]
    assert found == ["malformed"] * 7 + ["too_large"]
    assert authority.asked == []


async def test_invented_tokens_make_a_bounded_number_of_questions_at_once() -> None:
    authority = Authority(b'{"active":false}')
    async with make(authority) as opaque:
        found = await asyncio.gather(*(reason(opaque, f"evil-{index}") for index in range(MOST_AT_ONCE + 50)))
        assert (found.count("inactive"), found.count("cannot: busy")) == (MOST_AT_ONCE, 50)
        assert len(authority.asked) == MOST_AT_ONCE


async def test_another_member_may_identify_the_client() -> None:
    async with make(Authority(b'{"active":true,"client_id":"batch"}'), subject="client_id") as opaque:
        assert await sub(opaque) == "batch"


async def test_nothing_of_a_token_is_in_what_is_logged_or_measured(caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(active())
    async with make(authority) as opaque:
        await sub(opaque, "topsecrettoken")
        authority.status = 500
        await reason(opaque, "topsecrettoken2")

        assert "topsecret" not in caplog.text + repr(list(opaque.samples())) + repr(opaque._remembered._principals.keys())
        assert {sample.labels[-1]: sample.value for sample in opaque.samples()} == {"opaque": 1, "active": 1, "inactive": 0, "failed": 1}
