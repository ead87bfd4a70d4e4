import orjson
import pytest

from anabranch.edge.respond import Responder, framed, outcome_headers, send_response
from anabranch.engine.outcome import Result
from anabranch.errors import QueueFull, UpstreamStatus, UpstreamTimeout
from tests.support.asgi import Client
from tests.support.edge_plans import endpoint, outcome, result
from tests.support.requests import request_of


async def sent(made: Result, *, response: dict[str, object] | None = None, is_head: bool = False) -> Client:
    client = Client()
    plan = endpoint(response=response)
    request = request_of(plan, method="HEAD" if is_head else "GET")
    await send_response(Responder(plan.response).respond(made, request), client.send)
    return client


async def test_complete_response_has_the_merged_body_and_the_outcome_headers() -> None:
    client = await sent(result(outcome("flight", elapsed_ms=12.3), body=b'{"flight":1}'))
    assert (client.status, client.body) == (200, b'{"flight":1}')
    assert client.headers == {
        "content-type": "application/json",
        "gateway-complete": "?1",
        "server-timing": "flight;dur=12.3",
        "x-request-id": "r-1",
        "content-length": "12",
    }


async def test_a_response_for_which_no_step_ran_has_no_timing() -> None:
    client = await sent(Result(outcomes=[], status=200, body=b"{}", is_complete=True, left_out={"flight": "left_out"}))
    assert client.headers["gateway-complete"] == "?1"
    assert "server-timing" not in client.headers


async def test_partial_response_lists_the_reasons() -> None:
    client = await sent(result(outcome("flight"), outcome("weather", failure=UpstreamTimeout("slow"))))
    assert client.status == 200
    assert client.headers["gateway-complete"] == "?0"
    assert client.headers["server-timing"] == 'flight;dur=1.0, weather;dur=1.0;desc="timeout"'
    assert client.headers["proxy-status"] == 'anabranch;error=http_response_timeout;details="weather: timeout"'


async def test_failed_request_is_a_problem_with_the_same_header_fields() -> None:
    failure = QueueFull("full", retry_after_s=2)
    client = await sent(result(outcome("flight", failure=failure), status=503, failure=failure), response={"headers": {"x-ours": "1"}})
    assert client.status == 503
    assert client.headers["content-type"] == "application/problem+json"
    assert client.headers["gateway-complete"] == "?0"
    assert client.headers["retry-after"] == "2"
    assert "x-ours" not in client.headers
    assert orjson.loads(client.body)["instance"] == "r-1"


async def test_fixed_header_fields_are_sent_and_may_replace_the_type() -> None:
    headers = {"Cache-Control": "max-age=60", "Content-Type": "application/geo+json"}
    client = await sent(result(body=b"{}"), response={"headers": headers})
    assert client.headers["cache-control"] == "max-age=60"
    assert client.headers["content-type"] == "application/geo+json"


@pytest.mark.parametrize("name", ["Cache-Control", "CDN-Cache-Control", "ETag", "Expires", "Last-Modified", "Pragma", "Surrogate-Control"])
async def test_no_cache_may_keep_an_incomplete_response_whatever_the_document_says(name: str) -> None:
    """RFC 9111 section 5.2.2.5, RFC 9213."""
    response: dict[str, object] = {"headers": {name: "anything", "X-Other": "kept"}}
    partial = await sent(result(outcome("flight"), outcome("weather", failure=UpstreamTimeout("slow"))), response=response)
    assert partial.headers.get(name.lower(), "no-store") == "no-store"
    assert partial.headers["cache-control"] == "no-store"
    assert partial.headers["x-other"] == "kept"
    complete = await sent(result(outcome("flight")), response=response)
    assert complete.headers[name.lower()] == "anything"


async def test_a_problem_of_a_step_is_not_kept_either() -> None:
    failure = UpstreamStatus(404)
    client = await sent(result(outcome("flight", failure=failure), status=404, failure=failure))
    assert client.headers["cache-control"] == "no-store"


def test_without_a_step_there_is_no_timing() -> None:
    assert outcome_headers([], is_complete=True) == [(b"gateway-complete", b"?1")]


async def test_responses_do_not_share_their_header_list() -> None:
    responder = Responder(endpoint().response)
    first, second = (responder.respond(result(), request_of(endpoint(), request_id=name)) for name in (b"a", b"b"))
    assert [dict(each.headers)[b"x-request-id"] for each in (first, second)] == [b"a", b"b"]
    assert len(first.headers) == len(second.headers)


async def test_head_has_the_header_fields_of_get_and_no_body() -> None:
    client = await sent(result(body=b'{"flight":1}'), is_head=True)
    assert client.headers["content-length"] == "12"
    assert client.body == b""


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, "0")])
async def test_status_without_a_body_has_none(status: int, length: str | None) -> None:
    client = Client()
    await send_response(framed(status, [(b"content-type", b"application/json")], b"{}", is_head=False), client.send)
    assert client.body == b""
    assert "content-type" not in client.headers
    assert client.headers.get("content-length") == length
