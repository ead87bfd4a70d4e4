"""A complete gateway over the httpx seam, with respx in place of the network.

respx patches httpcore by default and would silently miss our transports. Here it is used through `httpx.MockTransport`, which an upstream's
transport accepts like any other (`Upstreams(opener=...)`), or patches httpx itself (`using="httpx"`). Other tests cover what a mock cannot
(socket timeouts, keep-alive, cancellation) on real sockets.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import respx

from anabranch.config.model import Document
from anabranch.config.problems import Problems
from anabranch.document.upstreams import Opener, Upstreams
from anabranch.edge.app import build_app
from anabranch.edge.dataplane import DataPlane
from anabranch.engine.run import Engine
from anabranch.plan.compile import compile_document
from anabranch.plan.upstream import UpstreamPlan
from anabranch.upstream.stock import HTTPXTransport

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "upstreams": {
        "users": {
            "url": "http://users.test/api",
            "transport": "httpx",
            "retry": {"attempts": 2, "backoff": "1ms", "budget": "100%"},
            "headers": {"x-key": "ours"},
            "forward_headers": ["accept-language"],
        },
        "orders": {"url": "https://orders.test:8443", "transport": "httpx", "max_response": "1KiB"},
    },
    "endpoints": [
        {
            "path": "/profiles/{id}",
            "parameters": {"id": {"in": "path", "schema": {"type": "integer"}}},
            "steps": {
                "user": {"upstream": "users", "path": "/users/{path.id}", "required": True},
                "orders": {"upstream": "orders", "path": "/orders", "query": {"user": "{user.name}"}, "timeout": "1s"},
            },
        },
        {
            "path": "/orders",
            "method": "POST",
            "body": {},
            "steps": {"order": {"upstream": "orders", "path": "/orders", "body": {"sku": "{body.sku}"}, "required": True}},
        },
    ],
}


def mocked(router: respx.MockRouter) -> Opener:
    """Every upstream's transport ends at the router."""

    def opener(upstream: UpstreamPlan) -> HTTPXTransport:
        return HTTPXTransport(httpx.MockTransport(router.async_handler), max_response=upstream.max_response_bytes)

    return opener


@asynccontextmanager
async def gateway(opener: Opener) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose upstreams are opened by `opener`."""
    problems = Problems()
    plan = compile_document(Document.model_validate(DOCUMENT), problems)
    problems.raise_if_any()
    async with Upstreams(plan.upstreams, opener=opener) as upstreams:
        plane = DataPlane(Engine(upstreams.policies).bind)
        plane.load(plan)
        app = build_app(plane=plane)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            yield client


@pytest.fixture
def router() -> respx.MockRouter:
    return respx.MockRouter(using=None, assert_all_called=False)


async def test_answers_of_two_services_are_joined(router: respx.MockRouter) -> None:
    user = router.get("http://users.test/api/users/7").respond(json={"name": "Ann & Bob"})
    orders = router.get("https://orders.test:8443/orders", params={"user": "Ann & Bob"}).respond(json=[{"sku": "a"}])
    async with gateway(mocked(router)) as client:
        response = await client.get("/profiles/7", headers={"accept-language": "de", "cookie": "secret=1", "x-request-id": "r-1"})
    assert (response.status_code, response.json()) == (200, {"user": {"name": "Ann & Bob"}, "orders": [{"sku": "a"}]})
    assert response.headers["gateway-complete"] == "?1"
    sent = user.calls.last.request.headers
    assert (sent["host"], sent["x-key"], sent["accept-language"], sent["x-request-id"]) == ("users.test", "ours", "de", "r-1")
    assert "cookie" not in sent
    assert orders.calls.last.request.headers["host"] == "orders.test:8443"


async def test_body_is_sent_as_json(router: respx.MockRouter) -> None:
    route = router.post("https://orders.test:8443/orders", json={"sku": "ä"}).respond(201, json={"id": 1})
    async with gateway(mocked(router)) as client:
        response = await client.post("/orders", json={"sku": "ä", "more": True})
    assert (response.status_code, response.json()) == (200, {"order": {"id": 1}})
    assert route.calls.last.request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (httpx.ConnectError, "connect_failed", 502),
        (httpx.ConnectTimeout, "connect_timeout", 504),
        (httpx.ReadTimeout, "timeout", 504),
        (httpx.ReadError, "connection_lost", 502),
        (httpx.RemoteProtocolError, "protocol_error", 502),
        (httpx.ProxyError, "connect_failed", 502),
    ],
)
async def test_httpx_errors_are_mapped_to_our_codes(
    router: respx.MockRouter, error: type[httpx.TransportError], code: str, status: int
) -> None:
    router.post("https://orders.test:8443/orders").mock(side_effect=error("orders.test refused 10.0.0.1"))
    async with gateway(mocked(router)) as client:
        response = await client.post("/orders", json={"sku": 1})
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{code}")
    assert "orders.test" not in response.text
    assert "10.0.0.1" not in response.text


async def test_failed_optional_service_is_null_and_reported(router: respx.MockRouter) -> None:
    router.get("http://users.test/api/users/7").respond(json={"name": "Ann"})
    router.get("https://orders.test:8443/orders").respond(500)
    async with gateway(mocked(router)) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, response.json()) == (200, {"user": {"name": "Ann"}, "orders": None})
    assert response.headers["gateway-complete"] == "?0"
    assert response.headers["proxy-status"] == 'anabranch;received-status=500;details="orders: upstream_status"'


async def test_idempotent_call_is_retried(router: respx.MockRouter) -> None:
    route = router.get("http://users.test/api/users/7")
    route.side_effect = [httpx.ConnectError("refused"), httpx.Response(200, json={"name": "Ann"})]
    router.get("https://orders.test:8443/orders").respond(json=[])
    async with gateway(mocked(router)) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, route.call_count) == (200, 2)


async def test_client_error_of_a_required_service_is_passed_through(router: respx.MockRouter) -> None:
    router.get("http://users.test/api/users/7").respond(404)
    orders = router.get("https://orders.test:8443/orders").respond(json=[])
    async with gateway(mocked(router)) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert not orders.called


async def test_answer_over_the_limit_is_rejected(router: respx.MockRouter) -> None:
    router.post("https://orders.test:8443/orders").respond(content=b'"' + b"x" * 2000 + b'"')
    async with gateway(mocked(router)) as client:
        response = await client.post("/orders", json={"sku": 1})
    assert (response.status_code, response.json()["type"]) == (502, "/problems/response_too_large")


async def test_optional_step_that_times_out_is_null(router: respx.MockRouter) -> None:
    ended = asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    router.get("http://users.test/api/users/7").respond(json={"name": "Ann"})
    router.get("https://orders.test:8443/orders").mock(side_effect=never)
    async with gateway(mocked(router)) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, response.json()["orders"]) == (200, None)
    assert "orders;dur=" in response.headers["server-timing"]
    assert response.headers["server-timing"].endswith('desc="timeout"')
    assert ended.is_set()


async def test_respx_that_patches_httpx_sees_a_client_on_our_transport() -> None:
    """`respx.mock(using="httpx")` replaces the transport of any client."""

    class Through(httpx.AsyncBaseTransport):
        """Adapts a client patched by respx to the transport interface of our seam."""

        def __init__(self) -> None:
            self.client = httpx.AsyncClient()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self.client.send(request, stream=True)

        async def aclose(self) -> None:
            await self.client.aclose()

    with respx.mock(using="httpx") as patched:
        route = patched.get("http://users.test/api/users/7").respond(json={"name": "Ann"})
        patched.get("https://orders.test:8443/orders").respond(json=[])
        patched.route(host="gateway").pass_through()
        async with gateway(lambda _: HTTPXTransport(Through())) as client:
            response = await client.get("/profiles/7")
    assert (response.status_code, response.json()["user"]) == (200, {"name": "Ann"})
    assert route.call_count == 1
