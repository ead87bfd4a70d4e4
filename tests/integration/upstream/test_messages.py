"""The forms of an answer: bodies, framing, codings, limits (RFC 9112 sections 2 to 7), the same for both transports."""

import gzip
import json
from typing import Any

import pytest

from anabranch.errors import ConnectionLost, ProtocolError, ResponseTooLarge, UpstreamError, UpstreamTimeout
from anabranch.upstream.connection import LARGE
from tests.support.rig import Rig

OK = {"json": {"ok": True}}


async def healthy(rig: Rig, behaviour: Any, **ask: Any) -> None:
    """Request the behaviour, which must fail with an UpstreamError; the next exchange must succeed."""
    _, caller = await rig.both({"/bad": behaviour, "/ok": OK})
    with pytest.raises(UpstreamError) as caught:
        await caller.ask("/bad", **ask)
    assert caught.value.may_be_processed
    assert (await caller.ask("/ok")).body == b'{"ok": true}'
    raise caught.value


@pytest.mark.parametrize(
    "framing",
    [
        {},
        {"chunked": True},
        {"chunked": 1},
        {"chunked": 3, "chunk_extension": ';name="value";flag'},
        {"chunked": 3, "trailers": {"x-checksum": "abc", "x-other": ""}},
        {"content_length": False},
        {"http": "1.0"},
        {"http": "1.0", "content_length": False},
        {"drip": {"bytes": 7, "every_s": 0.0}},
        {"chunked": 3, "drip": {"bytes": 1, "every_s": 0.0}},
        {"interim": [100]},
        {"interim": [103, 102, 100]},
        {"interim": ["HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\ncontent-length: 7\r\n\r\n"], "drip": {"bytes": 9, "every_s": 0.0}},
        {"headers": {"upgrade": "h2c", "connection": "upgrade"}},
        {"reason": ""},
        {"reason": "caf\xe9"},
    ],
)  # fmt: skip
async def test_body_is_read_completely_with_every_framing(rig: Rig, framing: dict[str, Any]) -> None:
    upstream, caller = await rig.both({"/x": {"json": {"a": [1, 2, 3]}, **framing}})
    for _ in range(2):
        answer = await caller.ask("/x")
        assert (answer.status, json.loads(answer.body)) == (200, {"a": [1, 2, 3]})
        assert answer.header(b"content-type") == b"application/json"
        assert answer.header(b"x-checksum") is None
        assert answer.header(b"link") is None
    assert upstream.counts["/x"] == 2


@pytest.mark.parametrize("status", [200, 201, 301, 400, 404, 418, 500, 503, 599])
async def test_every_final_status_is_an_answer(rig: Rig, status: int) -> None:
    _, caller = await rig.both({"/x": {"status": status, "body": "text"}})
    answer = await caller.ask("/x")
    assert (answer.status, answer.body) == (status, b"text")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("headers", [{}, {"content-length": "5"}, {"etag": '"1"'}])
async def test_statuses_without_a_body_ignore_the_framing_fields(rig: Rig, status: int, headers: dict[str, str]) -> None:
    """RFC 9112 section 6.3, rule 1."""
    if status == 204 and headers.get("content-length"):
        headers = {}
    upstream, caller = await rig.both({"/x": {"status": status, "headers": headers}, "/ok": OK})
    for _ in range(3):
        assert (await caller.ask("/x")).body == b""
        assert (await caller.ask("/ok")).body == b'{"ok": true}'
    assert upstream.accepted == 1


@pytest.mark.parametrize("framing", [{}, {"chunked": True}, {"encoding": "gzip"}, {"headers": {"content-length": "99999999999"}}])
async def test_answer_to_head_has_no_body_whatever_its_fields(rig: Rig, framing: dict[str, Any]) -> None:
    upstream, caller = await rig.both({"/x": {"json": 1, **framing}, "/ok": OK})
    for _ in range(3):
        answer = await caller.ask("/x", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert (await caller.ask("/ok")).body == b'{"ok": true}'
    assert upstream.accepted == 1


async def test_header_fields_keep_order_and_repeats_in_lower_case(rig: Rig) -> None:
    _, caller = await rig.both({"/x": {"headers": [["Set-Cookie", "a=1"], ["X-Empty", ""], ["Set-Cookie", "b=2"]], "body": ""}})
    answer = await caller.ask("/x")
    assert answer.headers[:3] == [(b"set-cookie", b"a=1"), (b"x-empty", b""), (b"set-cookie", b"b=2")]


async def test_request_arrives_unchanged(rig: Rig) -> None:
    upstream = await rig.serve({"*": {"echo": True}})
    caller = rig.caller(upstream.url + "/base/v1")
    await caller.ask(
        "/a%2Fb/%7Ec?x=1&y=%20&x=2&z=[1]",
        method="PUT",
        body=b'{"k":1}',
        headers=[(b"accept", b"application/json"), (b"X-Fixed", b"1")],
        extra=((b"x-extra", b"\xe9"), (b"x-extra", b"2")),
    )
    (hit,) = upstream.hits
    assert (hit.method, hit.target, hit.body) == ("PUT", "/base/v1/a%2Fb/%7Ec?x=1&y=%20&x=2&z=[1]", b'{"k":1}')
    pairs = [pair for pair in hit.headers if pair[0] in {"accept", "x-fixed", "x-extra", "content-length"}]
    assert sorted(pairs) == [
        ("accept", "application/json"),
        ("content-length", "7"),
        ("x-extra", "2"),
        ("x-extra", "\xe9"),
        ("x-fixed", "1"),
    ]
    assert hit.header("host") == f"127.0.0.1:{upstream.port}"
    assert hit.header("transfer-encoding") is None


async def test_get_without_body_sends_no_content_length_but_an_empty_body_does(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": {"body": ""}})
    await caller.ask("/none")
    await caller.ask("/empty", method="POST", body=b"")
    assert [hit.header("content-length") for hit in upstream.hits] == [None, "0"]


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 3_000_000])
async def test_request_bodies_of_any_size_arrive_complete(rig: Rig, size: int) -> None:
    upstream, caller = await rig.both({"/x": {"body": "read"}})
    body = bytes(range(256)) * (size // 256 + 1)
    for _ in range(2):
        assert (await caller.ask("/x", method="POST", body=body[:size])).body == b"read"
    assert [hit.body for hit in upstream.hits] == [body[:size]] * 2
    assert upstream.accepted == 1


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("framing", [{}, {"chunked": 5}])
async def test_content_codings_are_decoded(rig: Rig, coding: str, framing: dict[str, Any]) -> None:
    _, caller = await rig.both({"/x": {"json": ["text"] * 50, "encoding": coding, **framing}})
    assert json.loads((await caller.ask("/x")).body) == ["text"] * 50


async def test_several_codings_are_decoded_last_first(rig: Rig) -> None:
    body = gzip.compress(gzip.compress(b"[1]"))
    _, caller = await rig.both({"/x": {"body": body, "headers": {"content-encoding": "gzip, gzip"}}})
    assert (await caller.ask("/x")).body == b"[1]"


@pytest.mark.parametrize("coding", ["compress", "gzip, unknown", "gzip, gzip, gzip, gzip"])
async def test_unknown_codings_are_protocol_errors(rig: Rig, coding: str) -> None:
    with pytest.raises(ProtocolError, match="cod"):
        await healthy(rig, {"body": "abc", "headers": {"content-encoding": coding}})


async def test_bomb_is_stopped_at_the_limit(rig: Rig) -> None:
    _, caller = await rig.both({"/x": {"size": 50_000_000, "encoding": "gzip"}, "/ok": OK}, max_response=100_000)
    with pytest.raises(ResponseTooLarge):
        await caller.ask("/x")
    assert (await caller.ask("/ok")).status == 200


@pytest.mark.parametrize("framing", [{}, {"chunked": 4096}, {"content_length": False}])
async def test_body_over_the_limit_is_rejected_and_at_the_limit_accepted(rig: Rig, framing: dict[str, Any]) -> None:
    spec = {"/at": {"size": 10_000, **framing}, "/over": {"size": 10_001, **framing}, "/ok": OK}
    _, caller = await rig.both(spec, max_response=10_000)
    assert len((await caller.ask("/at")).body) == 10_000
    with pytest.raises(ResponseTooLarge):
        await caller.ask("/over")
    assert (await caller.ask("/ok")).status == 200


async def test_declared_length_over_the_limit_is_rejected_before_the_body_arrives(rig: Rig) -> None:
    raw = "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"
    upstream, caller = await rig.both({"/x": {"body": "", "content_length": 99_999_999}, "/raw": {"raw": raw}}, max_response=10)
    with pytest.raises(ResponseTooLarge):
        await caller.ask("/x")
    await upstream.until(lambda record: record.open == 0)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"size": 100, "truncate_after": 50},
        {"size": 100, "content_length": 101, "close": True},
        {"size": 100, "chunked": 10, "truncate_after": 50},
        {"body": "", "chunked": True, "truncate_after": 3},
        {"size": 100, "reset": 50},
        {"size": 100, "reset": "body"},
        {"reset": "answer"},
        {"raw": b""},
        {"raw": "HTTP/1.1 200 OK\r\ncontent-le"},
        {"raw": "HTTP/1.1 100 Continue\r\n\r\n"},
        {"raw": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc"},
        {"raw": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"},
    ],
)
async def test_connection_that_ends_early_is_connection_lost(rig: Rig, behaviour: dict[str, Any]) -> None:
    """RFC 9112 section 8."""
    with pytest.raises(ConnectionLost):
        await healthy(rig, behaviour)


async def test_missing_answer_times_out(rig: Rig) -> None:
    upstream, caller = await rig.both({"/x": {"hang": True}, "/slow": {"size": 1000, "drip": {"bytes": 1, "every_s": 0.05}}, "/ok": OK})
    for target in ("/x", "/slow"):
        await caller.ask("/ok")  # so that the connection exists and only the answer is pending
        with pytest.raises(UpstreamTimeout) as caught:
            await caller.ask(target, within_s=0.5)
        assert caught.value.may_be_processed
    await upstream.until(lambda record: record.aborted == 2)
    assert (await caller.ask("/ok")).status == 200


async def test_expired_deadline_sends_nothing(rig: Rig) -> None:
    upstream, caller = await rig.both({"*": OK})
    with pytest.raises(UpstreamTimeout) as caught:
        await caller.ask(within_s=-1.0)
    assert not caught.value.may_be_processed
    assert upstream.accepted == 0


async def test_large_answers_arrive_complete(rig: Rig) -> None:
    _, caller = await rig.both({"/x": {"size": 5_000_000}, "/chunked": {"size": 5_000_000, "chunked": 10_000}})
    assert (await caller.ask("/x")).body == b"x" * 5_000_000
    assert (await caller.ask("/chunked")).body == b"x" * 5_000_000


@pytest.mark.parametrize(("method", "length"), [("POST", "0"), ("PUT", "0"), ("PATCH", "0"), ("GET", None), ("DELETE", None)])
async def test_a_method_that_expects_a_body_sends_content_length_zero_without_one(rig: Rig, method: str, length: str | None) -> None:
    upstream, caller = await rig.both({"/": {"json": {}}})
    await caller.ask("/", method=method)
    assert dict(upstream.hits[0].headers).get("content-length") == length


@pytest.mark.parametrize("framing", [{}, {"chunked": 100_000}, {"content_length": False}])
async def test_large_body_arrives_complete_and_the_connection_is_kept(rig: Rig, framing: dict[str, Any]) -> None:
    body = "0123456789abcdef" * (LARGE // 16 + 1000)
    _, caller = await rig.both({"/large": {"body": body, **framing}, "/ok": OK}, max_response="16MiB")
    for _ in range(2):
        assert (await caller.ask("/large")).body == body.encode()
        assert (await caller.ask("/ok")).body == b'{"ok": true}'
