"""Python routes on a complete gateway, over real sockets and scripted services."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from anabranch.testing.scripted.upstream import ScriptedUpstream
from tests.support.gateway import Gateway, running_gateway

USER = {"name": "Ann"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DOCUMENT = """
version: 1
defaults: {{timeout: 5s}}
upstreams:
  users: {{url: "{users}", connect_timeout: 5s, headers: {{x-key: ours}}, forward_headers: [accept-language]}}
  orders: {{url: "{orders}", connect_timeout: 5s, concurrency: {{limit: 1, queue: 0}}, host: client, forwarded: off}}
routers: ["tests.support.fan_routes:router"]
endpoints:
  - path: /document/{{name}}
    parameters: {{name: {{in: path}}}}
    steps:
      users: {{upstream: users, path: "/users/{{path.name}}", required: true}}
      orders: {{upstream: orders, path: /orders, query: {{user: "{{path.name}}"}}}}
"""


@asynccontextmanager
async def gateway(users: Any = None, orders: Any = None) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedUpstream, ScriptedUpstream]]:
    """A client of a gateway, and the services behind it. `users`, `orders`: their behaviour for every request."""
    async with (
        ScriptedUpstream({"*": users or {"json": USER}}) as user_service,
        ScriptedUpstream({"*": orders or {"json": [1]}}) as order_service,
        running(user_service.url, order_service.url) as running_one,
        running_one.client() as client,
    ):
        yield client, user_service, order_service


@asynccontextmanager
async def running(users: str, orders: str) -> AsyncIterator[Gateway]:
    with TemporaryDirectory() as folder:
        async with running_gateway(DOCUMENT.format(users=users, orders=orders), Path(folder)) as one:
            yield one


def timing(response: httpx.Response) -> dict[str, str]:
    """The entries of Server-Timing: name to failure code, "" for none."""
    entries = [entry.split(";") for entry in response.headers["server-timing"].split(", ")]
    return {name: rest[1].removeprefix('desc="').removesuffix('"') if len(rest) > 1 else "" for name, *rest in entries}


async def test_calls_are_joined_and_their_outcomes_are_in_the_headers() -> None:
    async with gateway() as (client, users, orders):
        response = await client.get("/profiles/Ann")
    assert response.status_code == 200
    assert response.json() == {"user": USER, "orders": [1], "is_complete": True}
    assert response.headers["gateway-complete"] == "?1"
    assert timing(response) == {"users": "", "orders": ""}
    assert "proxy-status" not in response.headers
    assert (users.counts, orders.hits[0].target) == ({"/users/Ann": 1}, "/orders?user=Ann")


async def test_services_learn_the_client_and_the_host_that_the_document_chooses() -> None:
    async with gateway() as (client, users, orders):
        await client.get("/profiles/Ann", headers={"host": "api.example", "x-forwarded-for": "203.0.113.7", "forwarded": "for=203.0.113.7"})
    told = dict(users.hits[0].headers)
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["forwarded"] == "for=127.0.0.1;host=api.example;proto=http"
    assert told["host"] != "api.example"
    untold = dict(orders.hits[0].headers)
    assert untold["host"] == "api.example"
    assert "forwarded" not in untold


async def test_value_from_a_client_stays_one_path_segment() -> None:
    async with gateway() as (client, users, _):
        assert (await client.get("/profiles/a%20b%3Fc%23d")).status_code == 200
    assert [hit.target for hit in users.hits] == ["/users/a%20b%3Fc%23d"]


async def test_failed_optional_call_is_null_and_reported() -> None:
    async with gateway(orders={"status": 500}) as (client, _, _):
        response = await client.get("/profiles/Ann")
    assert (response.status_code, response.json()["orders"]) == (200, None)
    assert response.headers["gateway-complete"] == "?0"
    assert timing(response) == {"users": "", "orders": "upstream_status"}
    assert response.headers["proxy-status"] == 'anabranch;received-status=500;details="orders: upstream_status"'


@pytest.mark.parametrize(
    "behaviour",
    [
        {"status": 500},
        {"status": 404},
        {"status": 429, "headers": {"retry-after": "8"}},
        {"body": "no json"},
        {"reset": "answer"},
        {"raw": "garbage\r\n\r\n"},
    ],
)
async def test_failed_required_call_gives_the_same_problem_as_a_document_endpoint(behaviour: dict[str, Any]) -> None:
    async with gateway(users=behaviour) as (client, _, _):
        headers = {"x-request-id": "same"}
        from_python = await client.get("/profiles/Ann", headers=headers)
        from_document = await client.get("/document/Ann", headers=headers)
    assert from_python.status_code == from_document.status_code >= 400

    def comparable(response: httpx.Response) -> tuple[dict[str, str], dict[str, Any]]:
        fields = {name: value for name, value in response.headers.items() if name not in {"date", "server-timing", "content-length"}}
        problem = response.json()
        problem["errors"] = [{**error, "elapsed_ms": 0} for error in problem["errors"] if error["step"] == "users"]
        if problem["type"] == "/problems/invalid_json":  # each decoder has its own message
            del problem["detail"], problem["errors"][0]["detail"]
        return fields, problem

    assert comparable(from_python) == comparable(from_document)
    assert from_python.headers["content-type"] == "application/problem+json"
    assert timing(from_python)["users"] == timing(from_document)["users"] != ""


async def test_failed_required_call_cancels_the_other_exchange() -> None:
    async with gateway(users={"hang": True}, orders={"status": 500, "delay_s": 0.05}) as (client, users, _):
        response = await client.get("/both")
        await users.until(lambda upstream: upstream.aborted == 1)
        assert users.open == 0
    assert response.status_code == 502
    assert response.json()["errors"][0]["step"] == "orders"


async def test_full_bulkhead_is_503_with_retry_after() -> None:
    async with gateway(orders={"hang": True}) as (client, _, orders):
        first = asyncio.ensure_future(client.get("/both"))
        await orders.until(lambda upstream: upstream.concurrent == 1)
        response = await client.get("/both")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert (response.status_code, response.json()["type"]) == (503, "/problems/queue_full")
    assert int(response.headers["retry-after"]) >= 1


async def test_routes_own_deadline_ends_the_call() -> None:
    async with gateway(users={"hang": True}) as (client, users, _):
        response = await client.get("/patient", params={"seconds": 0.4})
        await users.until(lambda upstream: upstream.open == 0)
    assert (response.status_code, response.json()["type"]) == (504, "/problems/timeout")


async def test_timeout_of_one_call_gives_its_default() -> None:
    async with gateway(orders={"hang": True}) as (client, _, orders):
        response = await client.get("/hasty")
        await orders.until(lambda upstream: upstream.open == 0)
    assert (response.status_code, response.json()) == (200, ["none"])
    assert timing(response) == {"latest": "timeout"}


async def test_disconnect_cancels_the_exchanges() -> None:
    async with gateway(users={"hang": True}, orders={"hang": True}) as (client, users, orders):
        asked = asyncio.ensure_future(client.get("/both"))
        await users.until(lambda upstream: upstream.concurrent == 1)
        await orders.until(lambda upstream: upstream.concurrent == 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await users.until(lambda upstream: upstream.aborted == 1)
        await orders.until(lambda upstream: upstream.aborted == 1)
        users.on("*", {"json": USER})
        orders.on("*", {"json": []})
        assert (await client.get("/both")).json() == [USER, []]


async def test_upstreams_receive_the_forwarded_client_fields() -> None:
    sent = {"x-request-id": "id-1", "traceparent": TRACEPARENT, "tracestate": "a=b", "accept-language": "de", "cookie": "secret=1"}
    async with gateway() as (client, users, orders):
        response = await client.get("/profiles/Ann", headers=sent)
    got = dict(users.hits[0].headers)
    assert {name: got.get(name) for name in sent} == {**sent, "cookie": None}
    assert got["x-key"] == "ours"
    assert orders.hits[0].header("accept-language") is None
    assert orders.hits[0].header("x-key") is None
    assert orders.hits[0].header("traceparent") == TRACEPARENT
    assert response.headers["x-request-id"] == "id-1"


@pytest.mark.parametrize("path", ["/profiles/Ann", "/refusing", "/broken", "/own-response"])
async def test_request_id_is_the_same_for_client_and_upstreams(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway() as (client, users, _):
        response = await client.get(path)
    assert response.headers["x-request-id"] == users.hits[0].header("x-request-id")
    if response.status_code >= 400:
        assert response.json()["instance"] == response.headers["x-request-id"]


async def test_body_and_fields_of_a_call_reach_the_service() -> None:
    async with gateway(orders={"echo": True}) as (client, _, orders):
        response = await client.post("/orders", json={"sku": "ä", "count": 2})
    assert response.json()["body"] == {"sku": "ä", "count": 2}
    hit = orders.hits[0]
    assert (hit.method, hit.header("content-type"), hit.header("x-shop"), hit.header("accept")) == (
        "POST", "application/json", "main", "text/plain",
    )  # fmt: skip


async def test_routes_own_response_gets_only_the_headers_it_lacks() -> None:
    async with gateway() as (client, _, _):
        response = await client.get("/own-response")
    assert (response.status_code, response.text, response.headers["x-own"]) == (202, "<p>Ann</p>", "yes")
    assert timing(response) == {"users": ""}
    assert response.headers.get_list("gateway-complete") == ["?0"]
    assert response.headers["x-request-id"]


async def test_http_exception_becomes_a_problem() -> None:
    async with gateway() as (client, _, _):
        response = await client.get("/refusing")
    assert (response.status_code, response.headers["content-type"]) == (409, "application/problem+json")
    assert response.headers["retry-after"] == "7"
    problem = response.json()
    assert (problem["type"], problem["status"], problem["detail"]) == ("about:blank", 409, "not now")
    assert timing(response) == {"users": ""}


@pytest.mark.parametrize("path", ["/broken", "/mistaken"])
async def test_exception_of_a_route_is_an_internal_problem_without_its_message(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        async with gateway() as (client, _, _):
            response = await client.get(path)
    assert (response.status_code, response.json()["type"]) == (500, "/problems/internal_error")
    assert "secret" not in response.text
    assert "nobody" not in response.text
    (record,) = caplog.records
    request_id = response.headers["x-request-id"]
    assert record.getMessage() == f"the route GET {path} failed unexpectedly, request {request_id}"
    assert response.json()["instance"] == request_id
    assert response.headers["gateway-complete"] == "?1"  # of the calls until then


async def test_response_that_fails_midway_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway() as (client, _, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/half", headers={"x-request-id": "id-1"})
    assert "the route GET /half failed unexpectedly, request id-1" in [record.getMessage() for record in caplog.records]


async def test_invalid_values_are_a_problem_that_lists_them() -> None:
    async with gateway() as (client, users, _):
        response = await client.get("/patient", params={"seconds": "soon"})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert [(error["in"], error["name"]) for error in response.json()["errors"]] == [("query", "seconds")]
    assert users.hits == []


async def test_route_without_calls_has_no_outcome_headers() -> None:
    async with gateway() as (client, _, _):
        response = await client.get("/plain")
    assert response.status_code == 200
    assert "gateway-complete" not in response.headers


async def test_head_of_a_response_stays_small_and_shows_failures() -> None:
    async with gateway(orders={"status": 500}) as (client, _, _):
        response = await client.get("/many", params={"count": 300})
    assert response.status_code == 200
    shown = timing(response)
    assert len(response.headers["server-timing"]) <= 2048
    assert shown["orders"] == "upstream_status"
    assert response.headers["server-timing"].endswith(f'omitted;desc="{301 - (len(shown) - 1)} more steps"')


async def test_python_routes_are_described_with_problems() -> None:
    async with gateway() as (client, _, _):
        description = (await client.get("/openapi.json")).json()
    operation = description["paths"]["/patient"]["get"]
    assert list(operation["responses"]["422"]["content"]) == ["application/problem+json"]
    assert set(operation["responses"]) == {"200", "422", "4XX", "500", "502", "503", "504"}
    assert set(description["paths"]["/plain"]["get"]["responses"]) == {"200", "500"}


async def test_an_answer_has_status_fields_and_text_whatever_it_is() -> None:
    cookies = {"set-cookie": ["a=1", "b=2"], "content-type": "text/plain; charset=utf-8"}
    async with gateway(users=[{"body": "é", "headers": cookies}, {"status": 404, "body": "gone"}, {"status": 503, "body": ""}]) as (
        client,
        users,
        _,
    ):
        fine, absent, broken = [(await client.get("/fetched")) for _ in range(3)]
        assert [value for name, value in users.hits[0].headers if name == "accept"] == ["*/*"]
    assert fine.json() == {
        "status": 200, "type": "text/plain; charset=utf-8", "cookies": ["a=1", "b=2"], "text": "é", "is_success": True, "outcome": [200, None, True],
    }  # fmt: skip
    assert (absent.json()["status"], absent.json()["text"], absent.json()["outcome"]) == (404, "gone", [404, None, True])
    assert (broken.json()["status"], broken.json()["is_success"], broken.headers["gateway-complete"]) == (503, False, "?1")


@pytest.mark.parametrize("transport", ["wire", "httpx"])
async def test_bytes_and_fields_of_a_service_reach_the_client(transport: str) -> None:
    """The route passes every field on: those that no longer fit the decoded body are not among them."""
    picture = {"bytes": "".join(map(chr, range(256))), "headers": {"content-type": "image/png", "etag": '"1"'}, "encoding": "gzip"}
    document = DOCUMENT.replace("{{url: ", f"{{{{transport: {transport}, url: ")
    async with ScriptedUpstream({"*": picture}) as service:
        with TemporaryDirectory() as folder:
            async with running_gateway(document.format(users=service.url, orders=service.url), Path(folder)) as one, one.client() as client:
                response = await client.get("/picture")
    assert (response.status_code, response.content) == (200, bytes(range(256)))
    assert (response.headers["content-type"], response.headers["etag"], response.headers["content-length"]) == ("image/png", '"1"', "256")
    assert not {"content-encoding", "transfer-encoding"} & set(response.headers)


async def test_answers_and_values_are_gathered_together() -> None:
    async with gateway(users=[{"status": 418}, {"status": 418}], orders={"reset": "answer"}) as (client, _, _):
        response = await client.get("/answers")
    assert response.json() == [418, None, "nobody"]
    reasons = [entry.partition(";desc=")[2] for entry in response.headers["server-timing"].split(", ")]
    assert sorted(reasons) == ["", '"connection_lost"', '"upstream_status"']
    assert response.headers["gateway-complete"] == "?0"


async def test_an_answer_without_an_exchange_is_a_failure() -> None:
    async with gateway(users={"reset": "answer"}) as (client, _, _):
        response = await client.get("/fetched")
    assert (response.status_code, response.json()["type"]) == (502, "/problems/connection_lost")


async def test_an_answer_that_is_not_json_is_a_problem_only_when_it_is_read_as_json() -> None:
    async with gateway(users={"body": "no json"}) as (client, _, _):
        assert (await client.get("/fetched")).json()["text"] == "no json"
        response = await client.get("/answer-as-json")
    assert (response.status_code, response.json()["type"]) == (502, "/problems/invalid_json")
    assert "no json" not in response.json()["detail"]


async def test_an_answer_to_head_has_no_body() -> None:
    async with gateway(users={"body": "text", "headers": {"etag": '"1"'}}) as (client, _, _):
        assert (await client.get("/fetched?method=head")).json()["text"] == ""
