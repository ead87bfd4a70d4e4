import asyncio
import traceback
from base64 import b64decode
from collections.abc import Mapping
from typing import Literal, cast
from urllib.parse import parse_qs

import msgspec
import pytest

from anabranch.core.exchange import Address, Answer, HeaderBlock, Request
from anabranch.core.principal import Principal
from anabranch.errors import ConnectError, DeadlineExceeded, NoClientToken, UpstreamError
from anabranch.policy.call import Call
from anabranch.policy.token import INVALIDATE_PAUSE_S, LONGEST_PAUSE_S, Exchanges, One, TokenLayer, TokenSource
from tests.support.policies import OK, Act, Events, Scripted, answer, make_call

SECRET = "s3cret:/+ &"  # characters that form encoding changes


class Authority:
    """A transport to an authority that issues `t1`, `t2`, ... for `expires_in` seconds, each after `delay_s`, or fails with `failure`."""

    def __init__(self, *, expires_in: object = 100, delay_s: float = 0.1) -> None:
        self.expires_in = expires_in
        self.delay_s = delay_s
        self.failure: Answer | Exception | None = None
        self.requests: list[Request] = []
        self.addresses: list[Address] = []

    async def exchange(self, request: Request, address: Address, deadline: float) -> Answer:
        self.requests.append(request)
        self.addresses.append(address)
        serial = len(self.requests)
        await asyncio.sleep(self.delay_s)
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            return self.failure
        grant: dict[str, object] = {"access_token": f"t{serial}", "token_type": "Bearer"}
        if self.expires_in is not None:
            grant |= {"expires_in": self.expires_in}
        return answer(200, msgspec.json.encode(grant))

    async def aclose(self) -> None:
        pass


def make_source(
    authority: Authority,
    *,
    events: Events | None = None,
    scope: str | None = None,
    form: Mapping[str, str] | None = None,
    url: str = "",
    client_auth: Literal["basic", "post"] = "basic",
) -> TokenSource:
    return TokenSource(
        authority,
        token_url=url or "https://login.example/oauth/token/",
        client_id="gate way",
        client_secret=SECRET,
        client_auth=client_auth,
        form={"grant_type": "client_credentials", **({} if scope is None else {"scope": scope})} if form is None else form,
        clock=asyncio.get_running_loop().time,
        random=lambda: 0.5,
        upstream="flights",
        observer=events,
    )


class Upstream(Scripted):
    """A next layer that records the request of each call."""

    async def __call__(self, call: Call) -> Answer:
        self.requests.append(call.request)
        return await super().__call__(call)

    @property
    def tokens(self) -> list[bytes | None]:
        return [dict(request.extra).get(b"authorization") for request in self.requests]


class TestRequest:
    async def test_token_request_follows_the_rfc(self) -> None:
        authority = Authority()
        await make_source(authority, scope="read write").get(2000)
        request = authority.requests[0]
        headers = dict(request.headers.pairs)
        assert (request.method, request.target) == ("POST", "/oauth/token/")
        assert authority.addresses[0] == Address("https", "login.example", 443)
        assert headers[b"content-type"] == b"application/x-www-form-urlencoded"
        assert b64decode(headers[b"authorization"].removeprefix(b"Basic ")) == b"gate+way:s3cret%3A%2F%2B+%26"
        assert parse_qs(cast("bytes", request.body).decode()) == {"grant_type": ["client_credentials"], "scope": ["read write"]}

    async def test_client_can_be_named_in_the_form(self) -> None:
        """RFC 6749 section 2.3.1."""
        authority = Authority()
        await make_source(authority, scope="read", client_auth="post").get(2000)
        request = authority.requests[0]
        assert b"authorization" not in dict(request.headers.pairs)
        expected = {"grant_type": ["client_credentials"], "scope": ["read"], "client_id": ["gate way"], "client_secret": [SECRET]}
        assert parse_qs(cast("bytes", request.body).decode()) == expected

    @pytest.mark.parametrize("query", ["tenant=blue", "a=1&a=2", "p=B2C_1%2Fflow", "x="])
    async def test_query_of_the_token_url_is_kept(self, query: str) -> None:
        """RFC 6749 section 3.2."""
        authority = Authority()
        await make_source(authority, url=f"https://login.example./t?{query}").get(2000)
        assert authority.requests[0].target == f"/t?{query}"
        assert authority.addresses[0].authority == "login.example"

    @pytest.mark.parametrize(
        "accepted",
        [
            answer(201, b'{"access_token":"t","token_type":"bearer"}'),
            answer(200, b'{"access_token":"t"}'),
            answer(200, b'{"access_token":"t","token_type":"BEARER","expires_in":"3600"}'),
            answer(200, b'{"access_token":"t","token_type":"bearer","expires_in":3599.5,"ext_expires_in":null,"scope":["a"]}'),
        ],
    )
    async def test_answers_that_other_clients_take_are_taken(self, accepted: Answer) -> None:
        authority = Authority()
        authority.failure = accepted
        assert await make_source(authority).get(2000) == b"Bearer t"

    async def test_token_url_without_a_path_uses_the_root(self) -> None:
        authority = Authority()
        await make_source(authority, url="http://127.0.0.1:9").get(2000)
        assert authority.requests[0].target == "/"


class TestLife:
    async def test_one_fetch_serves_concurrent_and_later_callers(self) -> None:
        authority = Authority()
        source = make_source(authority)
        assert source.current() is None
        tokens = await asyncio.gather(*(source.get(2000) for _ in range(50)))
        assert set(tokens) == {b"Bearer t1"}
        await asyncio.sleep(50)
        assert source.current() == b"Bearer t1"
        assert len(authority.requests) == 1

    async def test_token_is_renewed_in_the_background_while_the_old_one_is_used(self) -> None:
        authority = Authority(delay_s=2)
        source = make_source(authority)
        await source.get(2000)
        await asyncio.sleep(82)
        assert len(authority.requests) == 1
        await asyncio.sleep(2)
        assert source.current() == b"Bearer t1"
        assert source.current() == b"Bearer t1"
        await asyncio.sleep(3)
        assert source.current() == b"Bearer t2"
        assert len(authority.requests) == 2

    async def test_expired_token_is_not_used(self) -> None:
        source = make_source(Authority())
        await source.get(2000)
        await asyncio.sleep(96)
        assert source.current() is None
        assert await source.get(3000) == b"Bearer t2"

    async def test_old_token_is_used_while_the_renewal_fails(self) -> None:
        authority = Authority()
        source = make_source(authority)
        await source.get(2000)
        authority.failure = ConnectError("refused")
        await asyncio.sleep(86)
        for _ in range(20):
            assert source.current() == b"Bearer t1"
            await asyncio.sleep(0.4)
        assert 2 <= len(authority.requests) <= 6
        authority.failure = None
        await asyncio.sleep(8)
        assert (await source.get(3000)).startswith(b"Bearer t")

    @pytest.mark.parametrize(("expires_in", "lifetime_s"), [(None, 300), ("200", 200), (100.5, 100)])
    async def test_expires_in_may_be_absent_or_a_string(self, expires_in: object, lifetime_s: float) -> None:
        source = make_source(Authority(expires_in=expires_in, delay_s=0))
        await source.get(2000)
        await asyncio.sleep(lifetime_s - 5.5)
        assert source.current() == b"Bearer t1"
        await asyncio.sleep(1.5)
        assert source.current() in (None, b"Bearer t2")


class TestFailure:
    @pytest.mark.parametrize(
        ("failure", "detail"),
        [
            (ConnectError("nobody listens"), "nobody listens"),
            (answer(401, b'{"error":"invalid_client","error_description":"x"}'), "the authority answered 401 (invalid_client)"),
            (answer(400, b'{"error":"made <up>"}'), "the authority answered 400"),
            (answer(500, b"<html>"), "the authority answered 500"),
            (answer(200, b"<html>"), "not a token"),
            (answer(200, b'{"access_token":"leak-me","token_type":"mac","expires_in":1}'), "not a bearer token"),
            (answer(200, b'{"access_token":"leak-me\\r\\nx: y","token_type":"bearer"}'), "characters that are not allowed"),
            (answer(200, b'{"access_token":"","token_type":"bearer"}'), "characters that are not allowed"),
            (answer(200, b'{"access_token":"leak-me","token_type":"bearer","expires_in":0}'), "already expired"),
            (answer(200, b'{"access_token":"leak-me","token_type":"bearer","expires_in":"soon"}'), "not a token"),
        ],
    )
    async def test_failure_of_the_authority_is_reported_without_secrets(self, failure: Answer | Exception, detail: str) -> None:
        authority = Authority()
        authority.failure = failure
        source = make_source(authority)
        with pytest.raises(UpstreamError) as caught:
            await source.get(2000)
        assert detail in caught.value.detail
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(source) + str(vars(caught.value))
        assert not any(word in shown for word in ("leak-me", "s3cret", "Basic ", "login.example"))

    async def test_authority_is_not_hammered_during_an_outage(self) -> None:
        authority = Authority(delay_s=0)
        authority.failure = ConnectError("refused")
        source = make_source(authority)
        for _ in range(1200):
            with pytest.raises(UpstreamError) as caught:
                await source.get(5000)
            assert 0 < (caught.value.retry_after_s or 0) <= 1.5 * LONGEST_PAUSE_S
            await asyncio.sleep(0.1)
        assert len(authority.requests) <= 9
        authority.failure = None
        await asyncio.sleep(1.5 * LONGEST_PAUSE_S)
        assert (await source.get(5000)).startswith(b"Bearer")

    async def test_waiting_ends_at_the_deadline_and_the_fetch_continues(self) -> None:
        authority = Authority(delay_s=3)
        source = make_source(authority)
        with pytest.raises(DeadlineExceeded):
            await source.get(asyncio.get_running_loop().time() + 1)
        assert await source.get(2000) == b"Bearer t1"
        assert len(authority.requests) == 1

    async def test_cancelled_caller_does_not_cancel_the_fetch(self) -> None:
        authority = Authority(delay_s=3)
        source = make_source(authority)
        first, second = (asyncio.ensure_future(source.get(2000)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        assert await second == b"Bearer t1"
        assert first.cancelled()
        assert len(authority.requests) == 1

    async def test_unexpected_exception_of_a_transport_reaches_the_caller(self) -> None:
        authority = Authority()
        authority.failure = RuntimeError("a bug")
        with pytest.raises(RuntimeError, match="a bug"):
            await make_source(authority).get(2000)

    async def test_closing_cancels_the_fetch_and_its_waiters(self) -> None:
        authority = Authority(delay_s=30)
        source = make_source(authority)
        waiter = asyncio.ensure_future(source.get(2000))
        await asyncio.sleep(1)
        await source.aclose()
        await source.aclose()
        with pytest.raises(UpstreamError, match="shutting down"):
            await waiter
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "token"]

    async def test_token_events_are_reported(self) -> None:
        events, authority = Events(), Authority()
        source = make_source(authority, events=events)
        await source.get(2000)
        authority.failure = answer(500)
        await asyncio.sleep(90)
        source.current()
        await asyncio.sleep(1)
        assert [(event.kind, event.reason) for event in events] == [("token", "fetched"), ("token", "failed")]
        assert events[0].elapsed_s == pytest.approx(0.1)


class TestLayer:
    async def test_token_replaces_the_clients_authorization(self) -> None:
        next_ = Upstream()
        call = make_call(extra=((b"accept-language", b"en"), (b"authorization", b"Bearer of-a-client")))
        original = call.request
        assert await TokenLayer(next_, sources=One(make_source(Authority())))(call) is OK
        assert next_.requests[0].extra == ((b"accept-language", b"en"), (b"authorization", b"Bearer t1"))
        assert call.request is original

    async def test_token_replaces_the_documents_authorization(self) -> None:
        next_ = Upstream()
        fixed = HeaderBlock.of([(b"accept", b"application/json"), (b"Authorization", b"Basic fixed")])
        await TokenLayer(next_, sources=One(make_source(Authority())))(make_call(headers=fixed))
        assert next_.requests[0].headers.wire == b"accept: application/json\r\n"
        assert next_.requests[0].extra == ((b"authorization", b"Bearer t1"),)

    async def test_rejected_token_is_replaced_once_for_an_idempotent_call(self) -> None:
        next_ = Upstream(OK, answer(401), OK)
        layer = TokenLayer(next_, sources=One(make_source(Authority())))
        await layer(make_call())
        call = make_call(wants_notes=True)
        assert await layer(call) is OK
        assert next_.tokens == [b"Bearer t1", b"Bearer t1", b"Bearer t2"]
        assert call.notes == ["token rejected: request sent again with a new token"]

    async def test_second_401_is_returned(self) -> None:
        refusal = answer(401)
        next_ = Upstream(refusal)
        assert await TokenLayer(next_, sources=One(make_source(Authority())))(make_call()) is refusal
        assert len(next_.requests) == 2

    async def test_other_calls_get_the_401_but_the_next_one_has_a_new_token(self) -> None:
        next_ = Upstream(answer(401), OK)
        layer = TokenLayer(next_, sources=One(make_source(Authority())))
        assert (await layer(make_call(method="POST", is_idempotent=False))).status == 401
        await layer(make_call())
        assert next_.tokens == [b"Bearer t1", b"Bearer t2"]

    async def test_authority_is_not_hammered_when_the_service_rejects_every_token(self) -> None:
        authority = Authority(delay_s=0)
        layer = TokenLayer(Upstream(answer(401)), sources=One(make_source(authority)))
        for _ in range(100):
            await layer(make_call())
            await asyncio.sleep(INVALIDATE_PAUSE_S / 25)
        assert len(authority.requests) <= 6

    async def test_burst_of_rejections_fetches_one_new_token(self) -> None:
        authority = Authority()
        slow_refusal: list[Act] = [0.05, answer(401)]
        next_ = Upstream(OK, *[slow_refusal] * 20, OK)
        layer = TokenLayer(next_, sources=One(make_source(authority)))
        await layer(make_call())
        answers = await asyncio.gather(*(layer(make_call()) for _ in range(20)))
        assert {answered.status for answered in answers} == {200}
        assert len(authority.requests) == 2

    async def test_nothing_is_sent_without_a_token(self) -> None:
        authority = Authority()
        authority.failure = answer(500)
        next_ = Upstream()
        call = make_call()
        with pytest.raises(UpstreamError):
            await TokenLayer(next_, sources=One(make_source(authority)))(call)
        assert (next_.requests, call.attempts) == ([], 0)

    async def test_original_request_is_restored_when_the_call_fails_or_is_cancelled(self) -> None:
        next_ = Upstream(ConnectError("x"), [30.0, OK])
        layer = TokenLayer(next_, sources=One(make_source(Authority())))
        call = make_call(seconds=60)
        original = call.request
        with pytest.raises(ConnectError):
            await layer(call)
        assert call.request is original
        task = asyncio.ensure_future(layer(call))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert call.request is original


# ------------------------------------------------------------------------------------------------------------- exchange


def of(token: str, sub: str = "alice") -> Call:
    call = make_call()
    call.principal = Principal(sub, sub, "users", credential=token.encode())
    return call


def exchanges(authority: "Authority") -> Exchanges:
    def make(more: Mapping[str, str]) -> TokenSource:
        return make_source(authority, form=more)

    return Exchanges(make)


class TestExchange:
    async def test_each_token_of_a_client_is_exchanged_once(self) -> None:
        authority = Authority()
        layer = TokenLayer(Upstream(), sources=exchanges(authority))
        await asyncio.gather(*(layer(of(token)) for token in ("a", "b", "a", "b", "a")))
        sent = sorted(parse_qs(cast("bytes", request.body).decode())["subject_token"][0] for request in authority.requests)
        assert sent == ["a", "b"]
        await layer.aclose()

    async def test_a_call_without_a_token_never_reaches_the_service(self) -> None:
        authority = Authority()
        layer = TokenLayer(Upstream(), sources=exchanges(authority))
        for call in (make_call(), of("")):
            with pytest.raises(NoClientToken):
                await layer(call)
        assert authority.requests == []

    async def test_tokens_that_are_not_in_use_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anabranch.policy.token.MOST_EXCHANGED", 2)
        authority = Authority()
        layer = TokenLayer(Upstream(), sources=exchanges(authority))
        for token in ("a", "b", "a", "c", "a", "b"):
            await layer(of(token))
        sent = [parse_qs(cast("bytes", request.body).decode())["subject_token"][0] for request in authority.requests]
        assert sent == ["a", "b", "c", "b"]
        await layer.aclose()
