"""What clients accept, by RFC 9110 sections 12.5.1 and 12.5.3, and as real clients write it."""

import pytest

from anabranch.core.negotiation import MediaType, Remembered, accepts, choose_coding

JSON = MediaType.parse("application/json")
GEO = MediaType.parse("application/geo+json")
CSV = MediaType.parse("text/csv; charset=utf-8")


@pytest.mark.parametrize(
    "field",
    [
        "application/json",
        "APPLICATION/JSON",
        "*/*",
        "application/*",
        "application/*+json",
        "*",
        "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",  # Java's HttpURLConnection
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",  # browsers
        "application/json, text/plain, */*",  # axios
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8;q=0.5",
        "application/json;odata=verbose",
        'text/plain;x="a,b;q=0";q=0.1, application/json',
        'application/json;profile="https://a.example/p?q=0"',
        "text/html;q=1,application/json;q=0.001",
        "*/*;q=0, application/json",
        "application/*;q=0, application/json;q=1",
        "*/*;q=0, application/*;q=0.1",
        "application/json;version=2;q=0, application/json",
        "application/json;q=abc",
        "application/json;q=nan",
        "application/json;q=7",
        "application/json ; q = 0.3",
        ",, application/json ,",
        "",
        " ",
        ",",
        "json",
        "garbage, /, ;q=0, */json",
    ],
)
def test_json_is_accepted(field: str) -> None:
    assert accepts(field, JSON)


@pytest.mark.parametrize(
    "field",
    [
        "text/html",
        "application/problem+json",
        "application/xml",
        "application/vnd.api+json",
        "text/*",
        "application/*+xml",
        "application/json;q=0",
        "application/json;q=0.000",
        "application/json;q=-1",
        "*/*;q=0",
        "*;q=0",
        "application/json;q=0, */*",
        "application/json;q=0, application/*;q=1, */*;q=1",
        "application/*+json;q=0, */*",
        "application/json;charset=utf-8;q=0, application/json",
        "image/png, garbage",
        'text/plain;x="application/json, */*"',
        'text/html;x="',
    ],
)
def test_json_is_not_accepted(field: str) -> None:
    assert not accepts(field, JSON)


@pytest.mark.parametrize(
    ("field", "is_accepted"),
    [
        ("application/json", False),
        ("application/geo+json", True),
        ("application/*+json", True),
        ("application/json, */*;q=0.1", True),
        ("text/csv", False),
    ],
)
def test_another_type_of_json_is_a_type_of_its_own(field: str, is_accepted: bool) -> None:
    assert accepts(field, GEO) is is_accepted


@pytest.mark.parametrize(
    ("field", "is_accepted"),
    [
        ("text/csv", True),
        ("text/*", True),
        ("text/csv;charset=utf-8;q=0, text/csv", False),
        ("text/csv;header=present", True),
        ("application/*", False),
    ],
)
def test_parameters_of_the_response_count(field: str, is_accepted: bool) -> None:
    assert accepts(field, CSV) is is_accepted


@pytest.mark.parametrize("text", ["", "json", "*/*", "application/*", "a/b, c/d", "a b/c", "application/", "/json"])
def test_what_is_no_media_type(text: str) -> None:
    with pytest.raises(ValueError, match="media type"):
        MediaType.parse(text)


@pytest.mark.parametrize(
    ("field", "coding"),
    [
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("*", "zstd"),
        ("*;q=0.5, gzip", "gzip"),
        ("zstd;q=0, *", "br"),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip, identity", "gzip"),
        ("gzip;q=bad, br;q=0.1", "br"),
    ],
)
def test_the_coding_that_the_client_likes_best(field: str, coding: str) -> None:
    assert choose_coding(field, ("zstd", "br", "gzip")) == (coding, True)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "identity",
        "deflate",
        "gzip;q=0",
        "gzip;q=0.000, br;q=0",
        "gzip;q=0.5, identity",
        "identity, *;q=0",
        "garbage",
        "supergzip",
        "gzip;q=",
        "gzip;q=nan",
        "identity;q=1, *;q=0",
    ],
)
def test_no_coding(field: str) -> None:
    assert choose_coding(field, ("zstd", "br", "gzip")) == (None, True)


@pytest.mark.parametrize(
    ("field", "coding"),
    [("identity;q=0, gzip", "gzip"), ("*;q=0, gzip", "gzip"), ("identity;q=0", None), ("*;q=0", None), ("identity;q=0, *", "zstd")],
)
def test_a_client_that_takes_nothing_plain(field: str, coding: str | None) -> None:
    assert choose_coding(field, ("zstd", "br", "gzip")) == (coding, False)


def test_judgements_are_remembered_within_bounds() -> None:
    judged: list[str] = []

    def judge(field: str) -> bool:
        judged.append(field)
        return False

    remembered = Remembered(judge, otherwise=True)
    assert [remembered(b"a"), remembered(b"a"), remembered(b"\xff")] == [False, False, False]
    assert judged == ["a", "\xff"]
    assert (remembered(b"x" * 1025), len(judged)) == (True, 2), "a field that is too long is not read"
    assert not remembered(b"y" * 257)
    assert not remembered(b"y" * 257)
    assert len(judged) == 4, "a long field is not remembered"
    for number in range(200):
        remembered(b"%d" % number)
    remembered(b"a")
    assert judged.count("a") == 2, "the memory is emptied when it is full"
