"""What a function may say when it refuses a request, and what is made of it."""

import pickle
from typing import Any

import pytest

from anabranch import Refused
from anabranch.compute.refusal import Refusal, pack, unpack


def test_title_and_detail_come_from_the_status() -> None:
    assert Refused(404).refusal == Refusal(404, "Not Found", "Not Found", [], {})
    assert Refused(409, "Sold out").refusal == Refusal(409, "Sold out", "Sold out", [], {})
    assert Refused(499).refusal.title == "Refused"


def test_it_says_what_it_is() -> None:
    assert str(Refused(404)) == "404 Not Found"
    assert str(Refused(409, "Sold out", "3 left")) == "409 Sold out: 3 left"


@pytest.mark.parametrize("status", [200, 302, 399, 600, 0, -1, True, "404", 404.0, None])
def test_a_status_that_is_no_error_is_not_possible(status: Any) -> None:
    with pytest.raises(ValueError, match="between 400 and 599"):
        Refused(status)


@pytest.mark.parametrize(
    ("said", "title", "detail"),
    [
        (("a\r\nb\x00c\td", "x\r\ny\x00z\x7f"), "a b c d", "x\ny z"),
        (("t" * 500, "d" * 9000), "t" * 197 + "...", "d" * 3997 + "..."),
        (("half \ud800", "\udfff"), "half ?", "?"),
        ((" \n ", " \n "), "Conflict", "Conflict"),
        (("é", "日本"), "é", "日本"),
    ],
)
def test_texts_are_bounded_and_cleaned(said: tuple[str, str], title: str, detail: str) -> None:
    refusal = Refused(409, *said).refusal
    assert (refusal.title, refusal.detail) == (title, detail)


@pytest.mark.parametrize("said", [(1,), (None,), ("", b"bytes")])
def test_texts_must_be_texts(said: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="must be a text"):
        Refused(409, *said)


@pytest.mark.parametrize(
    "headers",
    [
        {"Connection": "close"}, {"transfer-encoding": "chunked"}, {"Content-Length": "3"}, {"content-type": "text/html"}, {"Date": "now"},
        {"X-Request-Id": "x"}, {"gateway-complete": "?1"}, {"cache-control": "max-age=60"}, {"content-encoding": "gzip"}, {"a b": "x"}, {"": "x"},
        {"x": "a\r\nb: c"}, {"x": "a\x00"}, {"x": "\ud800"}, {"x": "y" * 3000}, {f"x-{n}": "y" * 100 for n in range(30)},
    ],
)  # fmt: skip
def test_fields_that_cannot_be_sent_are_faults_of_the_function(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"header|surrogate"):
        Refused(409, headers=headers)


def test_fields_are_texts_with_names_in_lower_case() -> None:
    assert Refused(401, headers={"WWW-Authenticate": ' Basic realm="é" '}).refusal.headers == [
        (b"www-authenticate", 'Basic realm="é"'.encode())
    ]
    with pytest.raises(TypeError, match="texts"):
        Refused(503, headers={"retry-after": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["type", "title", "status", "detail", "instance"])
def test_a_standard_member_cannot_be_replaced(name: str) -> None:
    with pytest.raises(ValueError, match="has one of that name"):
        Refused(409, extra={name: "x"})


@pytest.mark.parametrize("extra", [{"n": float("nan")}, {"errors": "x"}, {"errors": ["x"]}, {"big": "x" * 70_000}, {"half": "\ud800"}])
def test_members_that_are_not_possible(extra: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Refused(409, extra=extra)


@pytest.mark.parametrize("extra", [{1: 2}, {"": 1}, {"o": object()}])
def test_members_that_are_not_json(extra: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Refused(409, extra=extra)


def test_it_survives_pickling_and_packing() -> None:
    refused = Refused(422, "Wrong", "dates", {"X-A": "1"}, {"n": 10**30, "errors": [{"name": "from"}]})
    copied = pickle.loads(pickle.dumps(refused))
    assert (type(copied), str(copied), copied.refusal) == (Refused, str(refused), refused.refusal)
    assert unpack(pack(refused.refusal)) == refused.refusal
    assert refused.refusal.members["n"] == b"1" + b"0" * 30
