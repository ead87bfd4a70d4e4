"""The fan-out without sockets: requests built from calls, their results, and cancellation."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import pytest

from anabranch.core.exchange import Answer, Request
from anabranch.engine.python import FanCall, FanOut, FanOutFailed, segment, upstream_handles
from anabranch.errors import ConnectError, InvalidJSON, QueueFull, UpstreamStatus
from anabranch.policy.call import Call, Policy
from tests.support.documents import upstream_plan

EXTRA = ((b"x-request-id", b"r-1"),)


def answering(body: bytes = b"{}", status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Policy:
    async def policy(call: Call) -> Answer:
        call.attempts = 1
        return Answer(status, headers or [], body)

    return policy


def failing(error: Exception) -> Policy:
    async def policy(call: Call) -> Answer:
        raise error

    return policy


class Waiting:
    """A policy that waits until it is released. `ended`: how each call ended."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.ended: list[str] = []
        self.clean_up: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, call: Call) -> Answer:
        self.begun.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            if self.clean_up is not None:
                await self.clean_up()
            self.ended.append("cancelled")
            raise
        self.ended.append("answered")
        return Answer(200, [], b'"late"')


def fan_of(
    policies: Mapping[str, Policy], *, client_headers: Mapping[bytes, bytes] | None = None, deadline: float | None = None, **settings: Any
) -> FanOut:
    """A fan-out over these policies. `settings`: of every upstream."""
    upstreams = {name: upstream_plan(name, **settings) for name in policies}
    return FanOut(
        upstream_handles(upstreams, policies),
        deadline=monotonic() + 5 if deadline is None else deadline,
        client_headers=client_headers or {},
        extra=EXTRA,
    )


def request_of(fan: FanOut, *arguments: Any, **options: Any) -> Request:
    return fan.call(*arguments, **options).request


def fields(request: Request) -> dict[bytes, bytes]:
    pairs = [*request.headers.pairs, *request.extra]
    assert len(dict(pairs)) == len(pairs), f"a header field stands twice in {pairs}"
    return dict(pairs)


# ---------------------------------------------------------------------------------------------------------- describing


@pytest.mark.parametrize(
    ("value", "text"), [("a/b", "a%2Fb"), ("ä ?", "%C3%A4%20%3F"), (7, "7"), (1.5, "1.5"), (True, "true"), ("...", "..."), ("%", "%25")]
)
def test_segment_is_encoded(value: object, text: str) -> None:
    assert segment(value) == text


@pytest.mark.parametrize("value", ["", ".", "..", "a/../b", "%2e%2e", None])
def test_a_value_that_would_change_the_path_is_rejected_as_a_segment(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be a path segment"):
        segment(value)


@pytest.mark.parametrize("path", ["/users/../admin", "/..", "/users/%2e%2e/admin", "/users/..%2Fadmin", "/./users", "/users/..;x?a=b"])
def test_path_with_a_dot_segment_is_rejected(path: str) -> None:
    with pytest.raises(ValueError, match="a segment of the path must not have"):
        request_of(fan_of({"users": answering()}), "users", path)


def test_encoded_slash_is_rejected_where_the_upstream_refuses_it() -> None:
    fan = fan_of({"users": answering()}, encoded_slashes="refuse")
    assert request_of(fan, "users", "/users/a?back=a%2Fb").target == "/users/a?back=a%2Fb"
    with pytest.raises(ValueError, match="must not have a `/`"):
        request_of(fan, "users", f"/users/{segment('a/b')}")


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("/users", None, "/users"),
        ("/users", {}, "/users"),
        ("/users", {"a": None}, "/users"),
        ("/users", {"a": 1, "b": "x y&z", "c": True, "d": None, "e": 1.5}, "/users?a=1&b=x%20y%26z&c=true&e=1.5"),
        ("/users", {"id": [1, None, 2], "tag": ("x",), "none": []}, "/users?id=1&id=2&tag=x"),
        ("/users?all=1", {"a": "b"}, "/users?all=1&a=b"),
        ("/users/a%2Fb", None, "/users/a%2Fb"),
        ("/a b\r\nx: y", None, "/a%20b%0D%0Ax:%20y"),
    ],
)
def test_target_is_the_path_and_the_query(path: str, query: dict[str, Any] | None, target: str) -> None:
    assert request_of(fan_of({"users": answering()}), "users", path, query=query).target == target


def test_call_without_settings_is_a_required_idempotent_get() -> None:
    call = fan_of({"users": answering()}).call("users", "/")
    assert (call.name, call.request.method, call.is_required, call.is_idempotent, call.request.body) == ("users", "GET", True, True, None)


@pytest.mark.parametrize(
    ("method", "given", "expected"), [("post", None, False), ("PUT", None, True), ("POST", True, True), ("GET", False, False)]
)
def test_idempotence_follows_the_method_unless_stated(method: str, given: bool | None, expected: bool) -> None:
    call = fan_of({"users": answering()}).call("users", "/", method=method, idempotent=given)
    assert (call.request.method, call.is_idempotent) == (method.upper(), expected)


def test_headers_of_the_call_win_over_the_upstreams_and_the_clients() -> None:
    fan = fan_of(
        {"users": answering()},
        headers={"X-Key": "upstream", "x-fixed": "upstream"},
        forward_headers=["accept-language", "x-fixed", "accept"],
        client_headers={b"accept-language": b"de", b"x-fixed": b"client", b"cookie": b"c", b"accept": b"text/html"},
    )
    sent = fields(request_of(fan, "users", "/", headers={"X-KEY": "call"}))
    assert sent[b"x-key"] == b"call"
    assert sent[b"x-fixed"] == b"upstream"
    assert sent[b"accept-language"] == b"de"
    assert sent[b"accept"] == b"text/html"
    assert sent[b"x-request-id"] == b"r-1"
    assert b"cookie" not in sent
    assert b"content-type" not in sent


def test_body_is_json_and_the_call_may_replace_its_content_type() -> None:
    fan = fan_of({"users": answering()})
    request = request_of(fan, "users", "/", method="POST", body={"ä": [1, None]})
    assert request.body == '{"ä":[1,null]}'.encode()
    assert fields(request)[b"content-type"] == b"application/json"
    patch = request_of(fan, "users", "/", method="PATCH", body=[], headers={"Content-Type": "application/json-patch+json"})
    assert fields(patch)[b"content-type"] == b"application/json-patch+json"


def test_unknown_upstream_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="the document has no upstream 'user'; it has users, orders"):
        fan_of({"users": answering(), "orders": answering()}).call("user", "/")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": "users"}, "a path must start with /"),
        ({"path": "http://elsewhere/"}, "a path must start with /"),
        ({"path": "/#x"}, "have no fragment"),
        ({"path": "/", "headers": {"Host": "elsewhere"}}, "the header host belongs to one connection"),
        ({"path": "/", "headers": {"transfer-encoding": "chunked"}}, "the header transfer-encoding belongs to one connection"),
        ({"path": "/", "headers": {"x-a": "a\r\nx-b: c"}}, "must not contain control characters"),
        ({"path": "/", "headers": {"x a": "b"}}, "name"),
        ({"path": "/", "headers": {"x-a:": "b"}}, "name"),
        ({"path": "/", "name": 'a;desc="b"'}, "a name must begin with a letter"),
        ({"path": "/", "name": ""}, "a name must begin with a letter"),
    ],
)
def test_invalid_requests_are_rejected(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fan_of({"users": answering()}).call("users", **options)


# ------------------------------------------------------------------------------------------------------------- running


async def test_values_are_in_the_order_of_the_calls() -> None:
    slow = Waiting()
    fan = fan_of({"slow": slow, "fast": answering(b'{"a":1}')})
    gathering = asyncio.ensure_future(fan.gather(fan.call("slow", "/"), fan.call("fast", "/")))
    await slow.begun.wait()
    slow.let_go.set()
    assert await gathering == ["late", {"a": 1}]
    assert fan.is_complete
    assert {outcome.step for outcome in fan.outcomes} == {"slow", "fast"}


async def test_gathering_no_calls_gives_no_values() -> None:
    assert await fan_of({}).gather() == []


async def test_empty_body_is_null() -> None:
    assert await fan_of({"users": answering(b"", 204)}).get("users", "/") is None


async def test_failed_optional_call_gives_its_default_and_records_the_reason() -> None:
    fan = fan_of({"users": answering(b"1"), "orders": failing(ConnectError("nobody listens"))})
    assert await fan.gather(fan.call("users", "/"), fan.call("orders", "/", optional=True, default=[])) == [1, []]
    assert not fan.is_complete
    assert [outcome.failure.code for outcome in fan.outcomes if outcome.failure is not None] == ["connect_failed"]


@pytest.mark.parametrize("count", [1, 2])
async def test_failed_required_call_ends_the_gathering(count: int) -> None:
    error = QueueFull("full", retry_after_s=3)
    fan = fan_of({"users": failing(error), "orders": answering()})
    with pytest.raises(FanOutFailed) as failed:
        await fan.gather(*[fan.call("users", "/"), fan.call("orders", "/")][:count])
    assert failed.value.failure is error
    assert error in [outcome.failure for outcome in failed.value.outcomes]


async def test_failed_required_call_cancels_and_awaits_the_others() -> None:
    slow = Waiting()
    slow.clean_up = lambda: asyncio.sleep(0)
    fan = fan_of({"slow": slow, "users": failing(ConnectError("nobody listens"))})
    with pytest.raises(FanOutFailed):
        await fan.gather(fan.call("slow", "/", optional=True), fan.call("users", "/"))
    assert slow.ended == ["cancelled"]
    assert len(asyncio.all_tasks()) == 1


async def test_two_failures_at_once_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    fan = fan_of({"a": failing(ConnectError("no")), "b": failing(ConnectError("no"))})
    with caplog.at_level(logging.ERROR), pytest.raises(FanOutFailed):
        await fan.gather(fan.call("a", "/"), fan.call("b", "/"))
    assert [outcome.step for outcome in fan.outcomes] == ["a", "b"]
    assert caplog.records == []


@pytest.mark.parametrize("count", [1, 2])
async def test_cancellation_cancels_every_call(count: int) -> None:
    slow, other = Waiting(), Waiting()
    fan = fan_of({"slow": slow, "other": other})
    gathering = asyncio.ensure_future(fan.gather(*[fan.call("slow", "/"), fan.call("other", "/")][:count]))
    await slow.begun.wait()
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert slow.ended + other.ended == ["cancelled"] * count


async def test_second_cancellation_does_not_leave_calls_behind() -> None:
    slow, release = Waiting(), asyncio.Event()
    slow.clean_up = release.wait
    fan = fan_of({"slow": slow, "users": failing(ConnectError("nobody listens"))})
    gathering = asyncio.ensure_future(fan.gather(fan.call("slow", "/"), fan.call("users", "/")))
    for _ in range(5):
        await asyncio.sleep(0)
    gathering.cancel()
    await asyncio.sleep(0)
    assert not gathering.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert slow.ended == ["cancelled"]


async def test_unexpected_exception_of_a_call_is_raised() -> None:
    fan = fan_of({"users": failing(ZeroDivisionError()), "orders": answering()})
    with pytest.raises(ZeroDivisionError):
        await fan.gather(fan.call("users", "/"), fan.call("orders", "/"))


@pytest.mark.parametrize("body", [b"{", b"[1,]", b'"\xff"', b"NaN", b"[" * 100_000])
async def test_answer_that_is_not_json_is_a_failure(body: bytes) -> None:
    with pytest.raises(FanOutFailed) as failed:
        await fan_of({"users": answering(body)}).get("users", "/")
    assert isinstance(failed.value.failure, InvalidJSON)


@pytest.mark.parametrize(("status", "becomes"), [(404, 404), (429, 429), (301, 502), (500, 502), (503, 502)])
async def test_unsuccessful_answer_decides_the_status(status: int, becomes: int) -> None:
    fan = fan_of({"users": answering(b"null", status, [(b"retry-after", b"9")])})
    with pytest.raises(FanOutFailed) as failed:
        await fan.get("users", "/")
    failure = failed.value.failure
    assert isinstance(failure, UpstreamStatus)
    assert (failure.upstream_status, failure.status, failure.retry_after_s) == (status, becomes, 9.0)
    assert fan.outcomes[0].status == status


async def test_deadline_of_a_call_is_the_nearest_one() -> None:
    seen: dict[str, float] = {}

    async def noting(call: Call) -> Answer:
        seen[call.request.target] = call.deadline
        return Answer(200, [], b"1")

    began = monotonic()
    fan = fan_of({"users": noting}, deadline=began + 10)

    def call(path: str, timeout: float | None = None) -> FanCall[Any]:
        return fan.call("users", path, timeout=timeout)

    await fan.gather(call("/whole"), call("/short", 2), call("/long", 60))
    assert seen["/whole"] == seen["/long"] == began + 10
    assert began + 2 <= seen["/short"] <= monotonic() + 2
    fan.set_timeout(4)
    await fan.gather(call("/set"), call("/later", 60))
    assert seen["/set"] == seen["/later"]
    assert began + 4 <= seen["/set"] <= monotonic() + 4


async def test_call_settings_reach_the_policies() -> None:
    calls: list[Call] = []

    async def noting(call: Call) -> Answer:
        calls.append(call)
        return Answer(200, [], b"1")

    fan = fan_of({"users": noting})
    await fan.gather(fan.call("users", "/", optional=True), fan.call("users", "/", method="POST"))
    assert [(call.is_required, call.is_idempotent) for call in calls] == [(False, True), (True, False)]
