"""The gateway of the test kit: a document in the process, over a respx router or scripted services."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from anabranch.errors import ConfigError
from anabranch.testing import GatewayFixture, ScriptedUpstream, UnexpectedCall, gateway

DOCUMENT: dict[str, Any] = {
    "upstreams": {
        "users": {"url": "http://users.test/api", "retry": {"attempts": 2, "backoff": "1ms", "budget": "100%"}, "dns_ttl": "1s"},
        "orders": {"url": "https://orders.test:8443", "transport": "httpx", "timeout": "200ms", "follow_redirects": 1},
        "partner": {
            "url": "http://partner.test",
            "oauth2": {"token_url": "https://auth.test/token", "client_id": "me", "client_secret": "${PARTNER_SECRET:-s}"},
        },
    },
    "endpoints": [
        {
            "path": "/profiles/{id}",
            "journal": True,
            "parameters": {"id": {"in": "path", "schema": {"type": "integer"}}},
            "steps": {
                "user": {"upstream": "users", "path": "/users/{path.id}", "required": True},
                "orders": {"upstream": "orders", "path": "/orders", "query": {"user": "{user.name}"}},
            },
        },
        {"path": "/partner", "steps": {"it": {"upstream": "partner", "path": "/it", "required": True}}},
    ],
    "journal": {"sinks": [{"postgres": {"url": "postgresql://nobody@127.0.0.1:1/none"}}]},
}
ANN = "http://users.test/api/users/7"
ORDERS = "https://orders.test:8443/orders"

Mocking = Callable[[], respx.MockRouter]


def plain() -> respx.MockRouter:
    """A router that patches nothing."""
    return respx.MockRouter(using=None, assert_all_called=False)


@pytest.fixture(params=["nothing", "httpcore", "httpx"])
def router(request: pytest.FixtureRequest) -> Iterator[respx.MockRouter]:
    """A router as tests use it: one that patches nothing, and the two kinds that are active while the test runs."""
    if request.param == "nothing":
        yield plain()
        return
    with respx.mock(using=request.param, assert_all_called=False) as active:
        yield active


# ------------------------------------------------------------------------------------------------------------------- respx


async def test_a_router_sees_every_call_whatever_the_transport(router: respx.MockRouter) -> None:
    user = router.get(ANN).respond(json={"name": "Ann"})
    orders = router.get(ORDERS, params={"user": "Ann"}).respond(json=[1])
    async with gateway(DOCUMENT, router) as running:
        response = await running.client.get("/profiles/7", headers={"x-request-id": "r-1"})
    assert (response.status_code, response.json()) == (200, {"user": {"name": "Ann"}, "orders": [1]})
    assert (user.call_count, orders.call_count, len(router.calls)) == (1, 1, 2)
    assert user.calls.last.request.headers["host"] == "users.test"
    assert [(call.upstream, call.method, call.url, call.status, call.error) for call in running.calls] == [
        ("users", "GET", ANN, 200, ""),
        ("orders", "GET", f"{ORDERS}?user=Ann", 200, ""),
    ]
    assert running.calls[0].header("X-Request-Id") == "r-1"


def test_a_test_that_is_not_asynchronous_has_a_client_too(router: respx.MockRouter) -> None:
    router.get(ANN).respond(json={"name": "Ann"})
    router.get(ORDERS).respond(json=[])
    with gateway(DOCUMENT, router) as running:
        responses = [running.client.get("/profiles/7") for _ in range(2)]
    assert [response.json()["user"] for response in responses] == [{"name": "Ann"}] * 2
    assert len(running.calls) == 4


async def test_the_token_of_an_upstream_is_a_call_like_others(router: respx.MockRouter) -> None:
    token = router.post("https://auth.test/token").respond(json={"access_token": "t-1", "token_type": "bearer", "expires_in": 60})
    it = router.get("http://partner.test/it").respond(json=1)
    async with gateway(DOCUMENT, router, env={"PARTNER_SECRET": "s3"}) as running:
        assert (await running.client.get("/partner")).json() == {"it": 1}
    assert it.calls.last.request.headers["authorization"] == "Bearer t-1"
    assert token.call_count == 1
    assert [call.upstream for call in running.calls] == ["partner.oauth2", "partner"]
    assert "PARTNER_SECRET" not in os.environ


async def test_a_call_that_no_route_matches_fails_the_request_that_caused_it(router: respx.MockRouter) -> None:
    router.get(ANN).respond(json={"name": "Ann"})
    router.post(ORDERS, json={"a": 1}).respond(json=[])
    async with gateway(DOCUMENT, router) as running:
        with pytest.raises(UnexpectedCall) as unexpected:
            await running.client.get("/profiles/7")
    assert str(unexpected.value).splitlines() == [
        f"no route matches the call GET {ORDERS}?user=Ann of the upstream orders; the routes are:",
        f"  GET {ANN}",
        f"""  POST {ORDERS}, JSON eq '{{"a": 1}}'""",
    ]


def test_a_call_that_no_route_matches_fails_a_test_that_is_not_asynchronous() -> None:
    with gateway(DOCUMENT, plain()) as running, pytest.raises(UnexpectedCall, match=f"no route matches the call GET {ANN} .*none"):
        running.client.get("/profiles/7")


async def test_a_call_that_nobody_waited_for_fails_at_the_end() -> None:
    with pytest.raises(UnexpectedCall, match="GET"):
        async with gateway(DOCUMENT, plain()) as running:
            # Not by the client of the test: as a hedge or a renewed token behind the last answer.
            transport = httpx.ASGITransport(running.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://elsewhere") as other:
                assert (await other.get("/profiles/7")).status_code == 502


async def test_a_test_that_fails_keeps_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with gateway(DOCUMENT, plain()) as running:
            with pytest.raises(UnexpectedCall):
                await running.client.get("/profiles/7")
            raise ZeroDivisionError


async def test_a_router_that_takes_everything_is_believed() -> None:
    router = respx.MockRouter(using=None, assert_all_mocked=False)
    async with gateway(DOCUMENT, router) as running:
        assert (await running.client.get("/profiles/7")).json() == {"user": None, "orders": None}


async def test_errors_of_httpx_are_failures_of_the_service_and_retried() -> None:
    router = plain()
    user = router.get(ANN)
    user.side_effect = [httpx.ConnectError("refused"), httpx.Response(200, json={"name": "Ann"})]
    router.get(ORDERS).mock(side_effect=httpx.ReadError)
    async with gateway(DOCUMENT, router) as running:
        response = await running.client.get("/profiles/7")
    assert response.json() == {"user": {"name": "Ann"}, "orders": None}
    assert "connection_lost" in response.headers["server-timing"]
    assert [(call.upstream, call.status, call.error) for call in running.calls] == [
        ("users", None, "connect_failed"),
        ("users", 200, ""),
        ("orders", None, "connection_lost"),
    ]


async def test_what_a_side_effect_raises_otherwise_fails_the_test() -> None:
    def wrong(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "text/plain", "the accept header"
        return httpx.Response(200)

    router = plain()
    router.get(ANN).mock(side_effect=wrong)
    async with gateway(DOCUMENT, router) as running:
        with pytest.raises(UnexpectedCall, match=r"the side effect for the call GET .* raised AssertionError: the accept header") as raised:
            await running.client.get("/profiles/7")
    assert isinstance(raised.value.__cause__, AssertionError)


async def test_timeouts_are_those_of_the_document() -> None:
    ended = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    router = plain()
    router.get(ANN).respond(json={"name": "Ann"})
    router.get(ORDERS).mock(side_effect=never)
    async with gateway(DOCUMENT, router) as running:
        response = await running.client.get("/profiles/7")
    assert response.json()["orders"] is None
    assert running.calls[-1].error == "timeout"
    assert ended.is_set()


async def test_redirects_are_followed_as_the_document_says() -> None:
    router = plain()
    router.get(ANN).respond(json={"name": "Ann"})
    router.get(ORDERS).respond(302, headers={"location": "/orders/all"})
    router.get(f"{ORDERS}/all").respond(json=[1])
    async with gateway(DOCUMENT, router) as running:
        assert (await running.client.get("/profiles/7")).json()["orders"] == [1]
    assert [call.url for call in running.calls][1:] == [f"{ORDERS}?user=Ann", f"{ORDERS}/all"]


async def test_a_route_that_passes_through_calls_the_service() -> None:
    router = plain()
    async with ScriptedUpstream({"/users/7": {"json": {"name": "Bob"}}}) as real:
        router.get(f"{real.url}/users/7").pass_through()
        document = {
            "upstreams": {"users": {"url": real.url}},
            "endpoints": [{"path": "/it", "steps": {"a": {"upstream": "users", "path": "/users/7"}}}],
        }
        async with gateway(document, router) as running:
            assert (await running.client.get("/it")).json() == {"a": {"name": "Bob"}}


async def test_a_respx_router_of_the_test_does_not_get_the_requests_of_the_client(respx_mock: respx.MockRouter) -> None:
    respx_mock.get("http://elsewhere.test/").respond(204)
    async with gateway(DOCUMENT, {"users": {"*": {"json": {"name": "Ann"}}}, "orders": {"*": {"json": []}}}) as running:
        assert (await running.client.get("/profiles/7")).status_code == 200
        async with httpx.AsyncClient() as other:
            assert (await other.get("http://elsewhere.test/")).status_code == 204
    assert len(respx_mock.calls) == 1


# ---------------------------------------------------------------------------------------------------------------- scripted


async def test_scripted_services_answer_over_sockets() -> None:
    services = {"users": {"/api/users/7": {"json": {"name": "Ann"}}}, "orders": {"/orders": {"json": [1]}}, "partner": {"*": {"json": 2}}}
    async with gateway(DOCUMENT, services) as running:
        assert (await running.client.get("/profiles/7")).json() == {"user": {"name": "Ann"}, "orders": [1]}
        assert (await running.client.get("/partner")).json() == {"it": 2}
    assert [hit.target for hit in running.upstreams["orders"].hits] == ["/orders?user=Ann"]
    assert running.upstreams["partner"].hits[0].header("authorization") == "Bearer test-token"
    assert [call.url for call in running.calls][:2] == [ANN, f"{ORDERS}?user=Ann"]


def test_scripts_can_be_changed_while_the_gateway_runs() -> None:
    services = {"users": {"*": {"json": {"name": "Ann"}}}, "orders": {"*": {"json": []}}}
    with gateway(DOCUMENT, services) as running:
        assert running.client.get("/profiles/7").status_code == 200
        running.upstreams["users"].on("*", {"status": 404})
        assert running.client.get("/profiles/7").status_code == 404


async def test_a_service_without_a_script_fails_the_test() -> None:
    async with gateway(DOCUMENT, {"users": {"*": {"json": {"name": "Ann"}}}}) as running:
        with pytest.raises(UnexpectedCall, match=r"no script answers the call GET /orders\?user=Ann of the upstream orders: add `orders`"):
            await running.client.get("/profiles/7")


async def test_a_script_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="the document has no upstream user; did you mean `users`"):
        async with gateway(DOCUMENT, {"user": {}}):
            raise AssertionError


@pytest.mark.parametrize("services", [None, [], "users"])
def test_other_services_are_refused(services: Any) -> None:
    with pytest.raises(TypeError, match="a respx router, or a mapping"):
        gateway(DOCUMENT, services)


# ---------------------------------------------------------------------------------------------------- what holds in production


async def test_a_breaker_opens_and_lasts_from_request_to_request() -> None:
    document = {
        "upstreams": {"a": {"url": "http://a.test", "breaker": {"minimum_calls": 2, "failure_rate": "50%", "open_for": "1m"}}},
        "endpoints": [{"path": "/it", "steps": {"a": {"upstream": "a", "path": "/a", "required": True}}}],
    }
    router = plain()
    router.get("http://a.test/a").respond(500)
    async with gateway(document, router) as running:
        statuses = [(await running.client.get("/it")).status_code for _ in range(3)]
    assert (statuses, len(running.calls)) == ([502, 502, 503], 2)


async def test_guards_of_the_document_and_of_the_process_admit_and_reject() -> None:
    document = {
        "upstreams": {"a": {"url": "http://a.test"}},
        "endpoints": [
            {"path": "/one", "max_requests": 1, "steps": {"a": {"upstream": "a", "path": "/a"}}},
            {"path": "/two", "steps": {"a": {"upstream": "a", "path": "/a"}}},
        ],
    }
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        arrived.set()
        await let_go.wait()
        return httpx.Response(200, json=1)

    router = plain()
    router.get("http://a.test/a").mock(side_effect=slow)
    async with gateway(document, router, max_requests=2) as running:
        first = asyncio.create_task(running.client.get("/one"))
        await arrived.wait()
        assert (await running.client.get("/one")).status_code == 503
        let_go.set()
        assert (await first).json() == {"a": 1}


async def test_a_document_without_a_journal_writes_nothing(tmp_path: Path) -> None:
    document = {
        "upstreams": {"a": {"url": "http://a.test"}},
        "endpoints": [{"path": "/it", "steps": {"a": {"upstream": "a", "path": "/a"}}}],
    }
    router = plain()
    router.get("http://a.test/a").respond(json=1)
    async with gateway(document, router, journal_path=tmp_path / "journal") as running:
        assert (await running.client.get("/it")).json() == {"a": 1}
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_that_comes_in_parts_is_read_whole() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"n"'
        yield b": 1}"

    router = plain()
    router.get(ANN).mock(return_value=httpx.Response(200, stream=Parts(parts())))
    router.get(ORDERS).respond(json=[])
    async with gateway({**DOCUMENT, "endpoints": [DOCUMENT["endpoints"][0]]}, router) as running:
        assert (await running.client.get("/profiles/7")).json()["user"] == {"n": 1}


class Parts(httpx.AsyncByteStream):
    """A body that is no list of bytes."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part


# ------------------------------------------------------------------------------------------------------------- the process


async def test_a_document_in_a_file_is_served_with_what_it_logs_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_ADMIN_PORT", "not a number")
    monkeypatch.setenv("ANABRANCH_FROM_JOURNAL", "/nowhere")
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "version: 1\nendpoints: [{path: /it, journal: true, steps: {a: {upstream: a, path: /}}}]\nupstreams: {a: {url: 'http://a.test'}}\n"
    )
    router = plain()
    router.get("http://a.test/").respond(500)
    async with gateway(path, router, allow_explain=True) as running:
        assert (await running.client.get("/it")).status_code == 502
        assert (await running.client.get("/it?_explain=true")).json()["endpoint"]
        assert running.folder.is_dir()
    first = next(event for event in running.log if event["event"] == "request")
    assert (first["level"], first["path"], first["status"]) == ("error", "/it", 502)
    assert not running.folder.exists()
    assert not (tmp_path / "journal").exists()


async def test_a_journal_is_kept_where_the_test_says_and_shipped_nowhere(tmp_path: Path) -> None:
    services = {"users": {"*": {"json": {"name": "Ann"}}}, "orders": {"*": {"json": []}}}
    async with gateway(DOCUMENT, services, journal_path=tmp_path / "kept", journal_keep_size="10MiB") as running:
        await running.client.get("/profiles/7")
        assert (await running.client.get("/readyz")).json()["status"] == "ready"
    assert any((tmp_path / "kept").iterdir())
    # Requests may be slow on a busy machine.
    assert [event for event in running.log if event["level"] in ("warning", "error") and event["event"] != "request"] == []


def test_a_document_that_is_not_usable_is_told_with_every_problem() -> None:
    with (
        pytest.raises(ConfigError, match=r"(?s)gateway.yaml:\d+:\d+: .*unknown key `endpont`.*unknown key `pth`"),
        gateway({"endpont": [], "endpoints": [{"pth": "/x"}]}, {}),
    ):
        raise AssertionError


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="there is no setting allow_explian; did you mean `allow_explain`"),
        gateway(DOCUMENT, {}, allow_explian=True),
    ):
        raise AssertionError


async def test_nothing_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    router = plain()
    router.get(ANN).respond(json={"name": "Ann"})
    router.get(ORDERS).respond(json=[])
    async with gateway(DOCUMENT, router) as running:
        assert (await running.client.get("/profiles/7")).status_code == 200


async def test_the_fixture_is_the_same_gateway(gateway: GatewayFixture) -> None:
    router = plain()
    router.get("http://127.0.0.1:9102/airlines/B6").respond(json={"name": "JetBlue"})
    router.get("http://127.0.0.1:9101/flights/summary").respond(json={"flights": 3})
    async with gateway("demo/gateway.yaml", router) as running:  # from the root folder of pytest
        assert (await running.client.get("/airlines/B6")).json() == {"name": "JetBlue", "flights": 3}
