import asyncio

import pytest
from starlette.types import Message

from anabranch.edge import body as reader
from anabranch.edge.disconnect import ClientGone
from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.model import BodyPlan
from tests.support.asgi import Client
from tests.support.edge_plans import body, endpoint
from tests.support.requests import Lines, request_of

JSON = [(b"content-type", b"application/json")]


async def read(plan: BodyPlan, *chunks: bytes, lines: Lines = JSON, client: Client | None = None, timeout_s: float = 5.0) -> Frame:
    request = request_of(endpoint(method="POST", body=plan), lines=lines, frame=[MISSING], timeout_s=timeout_s)
    reader.check_head(request, plan)
    await reader.receive_json(request, plan, (client or Client(*chunks)).receive)
    reader.read_body(request, plan)
    return request.frame


async def test_body_is_read_into_the_frame_in_its_own_spelling() -> None:
    assert await read(body(), b'{"a": 1.50}') == [b'{"a": 1.50}']


async def test_chunks_are_joined() -> None:
    assert await read(body(), b'{"a', b'": ', b"1}") == [b'{"a": 1}']


async def test_missing_required_body_is_a_fault() -> None:
    with pytest.raises(InvalidBody, match="a JSON body is required"):
        await read(body())
    assert await read(body(is_required=False)) == [MISSING]


async def test_missing_body_may_have_any_media_type() -> None:
    lines = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    assert await read(body(is_required=False), lines=lines) == [MISSING]


@pytest.mark.parametrize(
    "media_type", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON", b"application/merge-patch+json", None]
)
async def test_json_media_types_are_accepted(media_type: bytes | None) -> None:
    assert await read(body(), b"1", lines=[] if media_type is None else [(b"content-type", media_type)]) == [b"1"]


@pytest.mark.parametrize("media_type", [b"text/plain", b"application/jsonx", b"multipart/form-data; boundary=x", b"", b"\xff"])
async def test_other_media_types_are_rejected_before_the_body_is_read(media_type: bytes) -> None:
    client = Client(b"1")
    with pytest.raises(UnsupportedMediaType):
        await read(body(), lines=[(b"content-type", media_type)], client=client)
    assert client.received == 0


async def test_curl_users_get_a_hint() -> None:
    with pytest.raises(UnsupportedMediaType, match="--json"):
        await read(body(), b"1", lines=[(b"content-type", b"application/x-www-form-urlencoded")])


async def test_declared_length_over_the_limit_is_rejected_before_the_body_is_read() -> None:
    client = Client(b"x" * 11)
    with pytest.raises(BodyTooLarge, match="larger than the limit of 10 bytes"):
        await read(body(max_size_bytes=10), lines=[*JSON, (b"content-length", b"11")], client=client)
    assert client.received == 0


@pytest.mark.parametrize("chunks", [(b"1" * 11,), (b"1" * 6, b"1" * 5), (b"1" * 6, b"1" * 6, b"")])
async def test_body_over_the_limit_is_rejected_whatever_length_was_declared(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(BodyTooLarge):
        await read(body(max_size_bytes=10), *chunks, lines=[*JSON, (b"content-length", b"5")])


async def test_body_of_exactly_the_limit_is_accepted() -> None:
    assert await read(body(max_size_bytes=10), b"1" * 5, b"1" * 5) == [b"1" * 10]


async def test_disconnect_ends_the_reading() -> None:
    client = Client(b"")
    messages: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    client.receive = receive  # type: ignore[method-assign]
    with pytest.raises(ClientGone):
        await read(body(), client=client)


async def test_waiting_for_a_body_ends_at_the_deadline() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(BodyTimeout):
        await reader.receive_json(request_of(endpoint(method="POST", body=body()), timeout_s=0.0), body(), receive)


async def test_every_fault_against_the_schema_is_reported() -> None:
    def validate(raw: bytes) -> None:
        raise ValueError("a: is required", "b: must be a number")

    with pytest.raises(InvalidBody, match="the body has 2 faults") as caught:
        await read(body(validate=validate), b"{}")
    assert caught.value.errors == [{"in": "body", "detail": "a: is required"}, {"in": "body", "detail": "b: must be a number"}]


async def test_broken_json_is_rejected_with_its_position() -> None:
    with pytest.raises(InvalidBody) as caught:
        await read(body(), b'{\n  "a": x}')
    assert caught.value.detail == "the body is not JSON: invalid character at line 2, column 8"
