"""A complete gateway with respx in place of its services, by the test kit: what they answer, and what the client is told.

Other tests cover what a mock cannot (socket timeouts, keep-alive, cancellation) on real sockets, and the kit itself in tests/unit/testing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import respx

from anabranch.testing import gateway as gateway_of

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


@asynccontextmanager
async def gateway(router: respx.MockRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose services are the routes of `router`."""
    async with gateway_of(DOCUMENT, router) as running:
        yield running.client


@pytest.fixture
def router() -> respx.MockRouter:
    return respx.MockRouter(using=None, assert_all_called=False)


async def test_answers_of_two_services_are_joined(router: respx.MockRouter) -> None:
    user = router.get("http://users.test/api/users/7").respond(json={"name": "Ann & Bob"})
    orders = router.get("https://orders.test:8443/orders", params={"user": "Ann & Bob"}).respond(json=[{"sku": "a"}])
    async with gateway(router) as client:
        response = await client.get("/profiles/7", headers={"accept-language": "de", "cookie": "secret=1", "x-request-id": "r-1"})
    assert (response.status_code, response.json()) == (200, {"user": {"name": "Ann & Bob"}, "orders": [{"sku": "a"}]})
    assert response.headers["gateway-complete"] == "?1"
    sent = user.calls.last.request.headers
    assert (sent["host"], sent["x-key"], sent["accept-language"], sent["x-request-id"]) == ("users.test", "ours", "de", "r-1")
    assert "cookie" not in sent
    assert orders.calls.last.request.headers["host"] == "orders.test:8443"


async def test_body_is_sent_as_json(router: respx.MockRouter) -> None:
    route = router.post("https://orders.test:8443/orders", json={"sku": "ä"}).respond(201, json={"id": 1})
    async with gateway(router) as client:
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
    async with gateway(router) as client:
        response = await client.post("/orders", json={"sku": 1})
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{code}")
    assert "orders.test" not in response.text
    assert "10.0.0.1" not in response.text


async def test_failed_optional_service_is_null_and_reported(router: respx.MockRouter) -> None:
    router.get("http://users.test/api/users/7").respond(json={"name": "Ann"})
    router.get("https://orders.test:8443/orders").respond(500)
    async with gateway(router) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, response.json()) == (200, {"user": {"name": "Ann"}, "orders": None})
    assert response.headers["gateway-complete"] == "?0"
    assert response.headers["proxy-status"] == 'anabranch;received-status=500;details="orders: upstream_status"'


async def test_client_error_of_a_required_service_is_passed_through(router: respx.MockRouter) -> None:
    router.get("http://users.test/api/users/7").respond(404)
    orders = router.get("https://orders.test:8443/orders").respond(json=[])
    async with gateway(router) as client:
        response = await client.get("/profiles/7")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert not orders.called


async def test_answer_over_the_limit_is_rejected(router: respx.MockRouter) -> None:
    router.post("https://orders.test:8443/orders").respond(content=b'"' + b"x" * 2000 + b'"')
    async with gateway(router) as client:
        response = await client.post("/orders", json={"sku": 1})
    assert (response.status_code, response.json()["type"]) == (502, "/problems/response_too_large")
