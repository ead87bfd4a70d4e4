"""An answer as code in Python sees it."""

import pytest

from anabranch.core.exchange import Answer
from anabranch.engine.answer import FanAnswer
from anabranch.errors import InvalidJSON


def answer(body: bytes = b"", *headers: tuple[bytes, bytes], status: int = 200) -> FanAnswer:
    return FanAnswer(Answer(status, list(headers), body))


def test_fields_are_found_in_any_case_and_joined() -> None:
    fields = answer(b"", (b"etag", b'"1"'), (b"vary", b"a"), (b"vary", b"b"), (b"x", "é".encode()), (b"y", b"\xe9")).headers
    assert (fields["ETag"], fields["Vary"], fields.all("VARY"), fields["x"], fields["y"]) == ('"1"', "a, b", ["a", "b"], "é", "\ufffd")
    assert (list(fields), len(fields), "etag" in fields, "Etag" in fields, fields.get("z"), fields.all("z")) == (
        ["etag", "vary", "x", "y"], 4, True, True, None, [],
    )  # fmt: skip
    with pytest.raises(KeyError):
        fields["z"]


def test_fields_that_no_longer_fit_the_body_are_left_out() -> None:
    sent = [
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"content-encoding", b"gzip"),
        (b"content-length", b"9"),
        (b"etag", b"1"),
    ]
    assert list(answer(b"decoded", *sent).headers) == ["etag"]
    assert dict(answer(b"", *sent).headers) == {"content-length": "9", "etag": "1"}


def test_what_it_shows_of_itself_has_no_values() -> None:
    it = answer(b"secret", (b"set-cookie", b"hush"), status=201)
    assert (repr(it), repr(it.headers)) == ("FanAnswer(201, 6 bytes)", "Fields(set-cookie)")


@pytest.mark.parametrize(
    ("status", "is_success"), [(200, True), (204, True), (299, True), (199, False), (304, False), (404, False), (500, False)]
)
def test_success_is_2xx(status: int, is_success: bool) -> None:
    assert answer(status=status).is_success is is_success


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        (b"text/plain", "é".encode(), "é"),
        (b"text/plain; charset=ISO-8859-1", b"\xe9", "é"),
        (b'text/html;charset="utf-16"', "é".encode("utf-16"), "é"),
        (b"text/plain; charset=nonsense", "é".encode(), "é"),
        (b"text/plain; charset=base64", b"x", "x"),
        (b"garbage", b"\xff", "\ufffd"),
    ],
)
def test_text_is_in_the_charset_of_its_type(content_type: bytes, body: bytes, text: str) -> None:
    assert answer(body, (b"content-type", content_type)).text == text


def test_json_is_read_as_the_engine_reads_it() -> None:
    assert answer(b'\xef\xbb\xbf{"n":100000000000000000000}').json() == {"n": 10**20}
    assert answer().json() is None
    for body in (b"{", b"\xff", b"[" * 5000, b"1e999"):
        with pytest.raises(InvalidJSON):
            answer(body).json()
