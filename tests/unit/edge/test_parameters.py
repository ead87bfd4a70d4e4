import pytest

from anabranch.edge.parameters import fill
from anabranch.errors import InvalidParameters
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.model import ParameterPlan
from tests.support.edge_plans import endpoint, parameter, read_integer, read_list
from tests.support.requests import request_of

FLIGHT = parameter("flight_id", "path", slot=0, read=read_integer)


def filled(
    *parameters: ParameterPlan, values: tuple[str | None, ...] = (), query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None
) -> Frame:
    request = request_of(endpoint(parameters=parameters), values=values, query=query, lines=headers)
    fill(request)
    return request.frame


def test_values_are_read_into_their_slots() -> None:
    units = parameter("units", slot=1)
    token = parameter("x-token", "header", slot=2)
    frame = filled(FLIGHT, units, token, values=("12",), query=b"units=metric&other=1", headers=[(b"x-token", b"abc")])
    assert frame == [12, "metric", "abc"]


def test_header_names_in_the_document_are_case_insensitive() -> None:
    assert filled(parameter("X-Token", "header", slot=0), headers=[(b"x-token", b"abc")]) == ["abc"]


def test_absent_parameter_has_its_default_or_is_missing() -> None:
    assert filled(parameter("a", slot=0, default=7), parameter("b", slot=1), parameter("c", "header", slot=2)) == [7, MISSING, MISSING]


def test_null_can_be_a_default() -> None:
    assert filled(parameter("a", slot=0, default=None)) == [None]


def test_unreferenced_parameter_is_still_checked() -> None:
    assert filled(parameter("a"), query=b"a=1") == [MISSING]
    with pytest.raises(InvalidParameters):
        filled(parameter("a", read=read_integer), query=b"a=x")


def test_array_takes_repeats_of_a_query_parameter() -> None:
    assert filled(parameter("tag", slot=0, read=read_list, is_list=True), query=b"tag=a&tag=b,c") == [["a", "b,c"]]


@pytest.mark.parametrize(
    ("lines", "elements"),
    [
        ([b"1, 2,3"], ["1", "2", "3"]),
        ([b"1", b"2, 3"], ["1", "2", "3"]),
        ([b"1", b"2", b"3"], ["1", "2", "3"]),
        ([b"1 \t,\t 2"], ["1", "2"]),
        ([b", 1,, ,2 ,"], ["1", "2"]),
        ([b""], []),
        ([b"", b"1"], ["1"]),
        ([b'"a, b", c'], ['"a, b"', "c"]),
        ([b'"a \\" , b", c'], ['"a \\" , b"', "c"]),
        ([b'W/"1", "2"'], ['W/"1"', '"2"']),
        ([b'"never, closed'], ['"never, closed']),
        (["Zoë, Łódź".encode()], ["Zoë", "Łódź"]),
        ([b"a b, c"], ["a b", "c"]),
    ],
)
def test_array_in_a_header_is_a_comma_separated_list(lines: list[bytes], elements: list[str]) -> None:
    """RFC 9110 sections 5.2, 5.3, 5.6.1.2 and 5.6.4."""
    tags = parameter("tag", "header", slot=0, read=read_list, is_list=True)
    assert filled(tags, headers=[(b"tag", line) for line in lines]) == [elements]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([b"de", b"en;q=0.5"], "de, en;q=0.5"),
        ([b"Sun, 06 Nov 1994 08:49:37 GMT"], "Sun, 06 Nov 1994 08:49:37 GMT"),
        ([b""], ""),
        (["Zoë".encode()], "Zoë"),
        (["\ufeffx".encode()], "\ufeffx"),
    ],
)
def test_text_in_a_header_is_the_whole_field(lines: list[bytes], text: str) -> None:
    """RFC 9110 section 5.3: several lines are one value."""
    assert filled(parameter("t", "header", slot=0), headers=[(b"t", line) for line in lines]) == [text]


def test_cookies_of_several_lines_are_joined_by_semicolons() -> None:
    """RFC 9113 section 8.2.3."""
    assert filled(parameter("Cookie", "header", slot=0), headers=[(b"cookie", b"a=1"), (b"cookie", b"b=2")]) == ["a=1; b=2"]


def test_a_header_that_is_one_number_is_a_fault_when_it_comes_twice() -> None:
    with pytest.raises(InvalidParameters):
        filled(parameter("n", "header", read=read_integer), headers=[(b"n", b"1"), (b"n", b"2")])


@pytest.mark.parametrize("value", [b"\xe9", b"a\xff", b"\xed\xa0\x80", b"\xc3"])
def test_a_header_that_is_not_utf8_is_a_fault(value: bytes) -> None:
    with pytest.raises(InvalidParameters, match="is not UTF-8 text"):
        filled(parameter("t", "header"), headers=[(b"t", value)])


@pytest.mark.parametrize(
    ("path", "elements"),
    [
        (b"/a/1,2,3", ["1", "2", "3"]),
        (b"/a/x%2Cy,z", ["x,y", "z"]),
        (b"/a/x", ["x"]),
        (b"/a/x,,y", ["x", "", "y"]),
        ("/a/ö%C3%B6".encode(), ["öö"]),
    ],
)
def test_array_in_a_path_is_separated_by_commas_that_are_not_encoded(path: bytes, elements: list[str]) -> None:
    """RFC 6570 section 3.2.2, which is OpenAPI's style `simple`."""
    plan = endpoint(path="/a/{ids}", parameters=(parameter("ids", "path", slot=0, read=read_list, is_list=True, segment=1),))
    request = request_of(plan, values=("whole",))
    request.path = path
    fill(request)
    assert request.frame == [elements]


def test_every_fault_is_reported_at_once() -> None:
    faulty = (
        FLIGHT,
        parameter("units", is_required=True),
        parameter("page", read=read_integer),
        parameter("x-key", "header", read=read_integer),
    )
    with pytest.raises(InvalidParameters) as caught:
        filled(*faulty, values=("abc",), query=b"page=1&page=2", headers=[(b"x-key", b"secret")])
    assert caught.value.errors == [
        {"in": "path", "name": "flight_id", "detail": "must be a whole number"},
        {"in": "query", "name": "units", "detail": "is required"},
        {"in": "query", "name": "page", "detail": "may be given only once, not 2 times"},
        {"in": "header", "name": "x-key", "detail": "must be a whole number"},
    ]
    assert caught.value.detail == "4 parameters are missing or invalid: path 'flight_id', query 'units', query 'page', header 'x-key'"


def test_single_fault_is_in_the_detail() -> None:
    with pytest.raises(InvalidParameters) as caught:
        filled(FLIGHT, values=("abc",))
    assert caught.value.detail == "the path parameter 'flight_id' must be a whole number"


def test_text_that_is_not_utf8_is_a_fault() -> None:
    with pytest.raises(InvalidParameters) as caught:
        filled(FLIGHT, parameter("q"), values=(None,), query=b"q=%FF")
    assert [fault["detail"] for fault in caught.value.errors] == ["is not UTF-8 text", "is not UTF-8 text"]


def test_no_fault_quotes_what_was_sent() -> None:
    def refuse(texts: list[str]) -> None:
        raise ValueError("is wrong")

    with pytest.raises(InvalidParameters) as caught:
        filled(FLIGHT, parameter("q", read=refuse), values=("tulip-77",), query=b"q=tulip-77")
    assert "tulip-77" not in str(caught.value.errors) + caught.value.detail


def test_empty_value_is_not_an_absent_one() -> None:
    assert filled(parameter("a", slot=0, default="default"), query=b"a=") == [""]
