import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from anabranch.edge import body as reader
from anabranch.edge.body import ClientGone, check_json
from anabranch.errors import BodyTimeout, BodyTooLarge, InvalidBody, UnsupportedMediaType
from anabranch.plan.model import MISSING, BodyPlan, Frame
from tests.support.asgi import Client
from tests.support.edge_plans import body

JSON = {b"content-type": b"application/json"}


async def read(plan: BodyPlan, *chunks: bytes, headers: dict[bytes, bytes] | None = None, client: Client | None = None) -> Frame:
    frame: Frame = [MISSING]
    deadline = asyncio.get_running_loop().time() + 5
    await reader.read(plan, frame, JSON if headers is None else headers, (client or Client(*chunks)).receive, deadline)
    return frame


async def test_body_is_read_into_the_frame_in_its_own_spelling() -> None:
    assert await read(body(), b'{"a": 1.50}') == [b'{"a": 1.50}']


async def test_chunks_are_joined() -> None:
    assert await read(body(), b'{"a', b'": ', b"1}") == [b'{"a": 1}']


async def test_missing_required_body_is_a_fault() -> None:
    with pytest.raises(InvalidBody, match="a JSON body is required"):
        await read(body())
    assert await read(body(is_required=False)) == [MISSING]


async def test_missing_body_may_have_any_media_type() -> None:
    headers = {b"content-type": b"text/plain", b"content-length": b"0"}
    assert await read(body(is_required=False), headers=headers) == [MISSING]


@pytest.mark.parametrize(
    "media_type", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON", b"application/merge-patch+json", None]
)
async def test_json_media_types_are_accepted(media_type: bytes | None) -> None:
    assert await read(body(), b"1", headers={} if media_type is None else {b"content-type": media_type}) == [b"1"]


@pytest.mark.parametrize("media_type", [b"text/plain", b"application/jsonx", b"multipart/form-data; boundary=x", b"", b"\xff"])
async def test_other_media_types_are_rejected_before_the_body_is_read(media_type: bytes) -> None:
    client = Client(b"1")
    with pytest.raises(UnsupportedMediaType):
        await read(body(), headers={b"content-type": media_type}, client=client)
    assert client.received == 0


async def test_curl_users_get_a_hint() -> None:
    with pytest.raises(UnsupportedMediaType, match="--json"):
        await read(body(), b"1", headers={b"content-type": b"application/x-www-form-urlencoded"})


async def test_declared_length_over_the_limit_is_rejected_before_the_body_is_read() -> None:
    client = Client(b"x" * 11)
    with pytest.raises(BodyTooLarge, match="10 bytes at most"):
        await read(body(max_size_bytes=10), headers={**JSON, b"content-length": b"11"}, client=client)
    assert client.received == 0


@pytest.mark.parametrize("chunks", [(b"1" * 11,), (b"1" * 6, b"1" * 5), (b"1" * 6, b"1" * 6, b"")])
async def test_body_over_the_limit_is_rejected_whatever_length_was_declared(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(BodyTooLarge):
        await read(body(max_size_bytes=10), *chunks, headers={**JSON, b"content-length": b"5"})


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
        await reader.read(body(), [MISSING], JSON, receive, asyncio.get_running_loop().time())


async def test_every_fault_against_the_schema_is_reported() -> None:
    def validate(raw: bytes) -> None:
        raise ValueError("a: is required", "b: must be a number")

    with pytest.raises(InvalidBody, match="the body has 2 faults") as caught:
        await read(body(validate=validate), b"{}")
    assert caught.value.errors == [{"in": "body", "detail": "a: is required"}, {"in": "body", "detail": "b: must be a number"}]


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"a": 1', "the body is not JSON: it ends too early"),
        (b'{\n  "a": x}', "the body is not JSON: invalid character at line 2, column 8"),
        ('{"ä": x}'.encode(), "the body is not JSON: invalid character at line 1, column 7"),
        (b"{} {}", "the body is not JSON: trailing characters at line 1, column 4"),
        (b"NaN", "the body is not JSON: invalid character at line 1, column 1"),
        (b'{"a": "\xff"}', "the body is not UTF-8: byte 8 is not part of a character"),
        (b"\xef\xbb\xbf{}", "the body is not JSON: invalid character at line 1, column 1"),
        (b"[" * 100_000, "the body is nested too deeply"),
    ],
)
def test_broken_json_is_located(raw: bytes, detail: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        check_json(raw)
    assert caught.value.detail == detail


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=10,
)


@given(_JSON)
def test_any_json_is_accepted(value: object) -> None:
    check_json(orjson.dumps(value))


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:1e-\\u\n tfn'), max_size=30).map(str.encode))
def test_any_bytes_are_accepted_or_rejected_with_a_message(raw: bytes) -> None:
    try:
        check_json(raw)
    except InvalidBody as error:
        detail = error.detail
    else:
        orjson.loads(raw)
        return
    assert detail.startswith("the body ")
