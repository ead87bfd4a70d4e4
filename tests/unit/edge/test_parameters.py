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


def test_array_collects_repeated_values() -> None:
    assert filled(parameter("tag", slot=0, read=read_list), query=b"tag=a&tag=b,c") == [["a", "b,c"]]
    assert filled(parameter("tag", "header", slot=0, read=read_list), headers=[(b"tag", b"a"), (b"tag", b"b")]) == [["a", "b"]]


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
        {"in": "path", "name": "flight_id", "detail": "must be a whole number", "value": "abc"},
        {"in": "query", "name": "units", "detail": "is required"},
        {"in": "query", "name": "page", "detail": "may be given only once, not 2 times", "value": "1, 2"},
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


def test_long_values_are_truncated_in_the_report() -> None:
    with pytest.raises(InvalidParameters) as caught:
        filled(FLIGHT, values=("x" * 1000,))
    assert caught.value.errors[0]["value"] == "x" * 100 + "..."


def test_empty_value_is_not_an_absent_one() -> None:
    assert filled(parameter("a", slot=0, default="default"), query=b"a=") == [""]
