"""What a call sends on the wire, for any value from a client or an upstream."""

from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.core import path_value
from anabranch.core.exchange import Request
from anabranch.errors import MissingReference
from anabranch.jsontext.frame import MISSING
from anabranch.plan.left_out import LeftOut
from tests.support.documents import call_of, plan_of, slot

PARAMETERS = {"v": {"in": "query", "default": None, "schema": {}}, "o": {"in": "query"}, "n": {"in": "query", "required": True}}


def request(step: dict[str, Any], *, client: dict[bytes, bytes] | None = None, **values: Any) -> Request:
    plan = plan_of({"parameters": PARAMETERS, "steps": {"s": {"upstream": "a", "path": "/p", **step}}})
    frame = plan.new_frame()
    for name, value in values.items():
        slot(plan, frame, name, value)
    return call_of(plan.steps[0]).build(frame, client or {}, ((b"x-request-id", b"r"),), b"")


@given(st.text(min_size=1).filter(lambda text: path_value.fault(text) is None))
def test_a_value_in_a_path_is_one_segment(text: str) -> None:
    target = request({"path": "/p/{query.n}/end"}, n=text).target
    assert target.isascii()
    assert target.count("/") == 3
    assert "?" not in target
    assert unquote(target.split("/")[2]) == text


@pytest.mark.parametrize(
    "value", [MISSING, None, "", ".", "..", "../a", "a/./b", "%2e%2e/a", b"null", b"{}", b"[]", b"[null]", b"[[1]]", b'"."']
)
def test_what_cannot_be_a_segment_is_a_missing_reference(value: Any) -> None:
    with pytest.raises(MissingReference):
        request({"path": "/p/{query.n}"}, n=value)


@given(st.text())
def test_a_value_in_a_query_stays_one_value(text: str) -> None:
    target = request({"query": {"q": "{query.n}", "r": "x={query.n}", "z": 1}}, n=text).target
    assert target.isascii()
    assert parse_qsl(target.partition("?")[2], keep_blank_values=True) == [("q", text), ("r", "x=" + text), ("z", "1")]


def test_typed_values_are_written_as_text_in_a_query() -> None:
    step = {"query": {"t": True, "f": 1.5, "list": [1, "{query.n}"], "none": None}}
    assert request(step, n=False).target == "/p?t=true&f=1.5&list=1&list=false"


def test_an_array_repeats_its_name_for_each_element() -> None:
    assert request({"query": {"id": "{query.n}"}}, n=b'[1, "a b", 2.50]').target == "/p?id=1&id=a%20b&id=2.50"
    assert request({"query": {"id": "{query.n}"}}, n=["x", "y"]).target == "/p?id=x&id=y"


def test_an_array_in_a_path_is_one_segment_with_commas() -> None:
    assert request({"path": "/p/{query.n}"}, n=b'[1, "a,b/c", true]').target == "/p/1,a%2Cb%2Fc,true"


def test_an_array_without_elements_leaves_the_step_out() -> None:
    values: list[Any] = [[], b"[]", b"[ ]"]
    for value in values:
        for query in ({"id": "{query.n}"}, {"q": "id in ({query.n})"}, {"id": {"value": "{query.n}", "style": "comma"}}):
            with pytest.raises(LeftOut):
                request({"query": query}, n=value)
    assert request({"query": {"id": {"value": "{query.n}", "when_empty": "leave_out"}}}, n=[]).target == "/p"
    assert request({"query": {"id": {"value": "{query.n}", "when_empty": "send"}, "k": 1}}, n=[]).target == "/p?id=&k=1"


def test_an_omitted_optional_parameter_is_omitted() -> None:
    assert request({"query": {"o": "{query.o}", "k": "1"}}).target == "/p?k=1"
    assert request({"headers": {"x-o": "{query.o}"}}).extra == ((b"x-request-id", b"r"),)


def test_a_required_reference_that_found_nothing_is_missing() -> None:
    with pytest.raises(MissingReference):
        request({"query": {"n": "{query.n}"}})


def test_a_query_in_the_path_is_continued() -> None:
    assert request({"path": "/p?a=1", "query": {"b": 2}}).target == "/p?a=1&b=2"


@given(st.text())
def test_no_value_can_break_out_of_a_header(text: str) -> None:
    try:
        pairs = request({"headers": {"X-V": "v {query.n}"}}, n=text).extra
    except MissingReference:
        assert any(ord(char) < 0x20 or ord(char) == 0x7F for char in text)
        return
    name, value = pairs[-1]
    assert name == b"x-v"
    assert not set(value) & {0x0A, 0x0D, 0x00}


def test_headers_of_the_step_win_over_the_upstreams_and_the_clients() -> None:
    upstream = {
        "url": "http://127.0.0.1:1",
        "headers": {"X-A": "upstream", "X-B": "upstream"},
        "forward_headers": ["X-A", "X-B", "X-C", "accept"],
    }
    plan = plan_of({"steps": {"s": {"upstream": "a", "path": "/p", "headers": {"x-a": "step"}}}}, upstreams={"a": upstream})
    client = {b"x-a": b"client", b"x-b": b"client", b"x-c": b"client"}
    built = call_of(plan.steps[0]).build(plan.new_frame(), client, (), b"")
    seen = dict(built.headers.pairs) | dict(built.extra)
    assert (seen[b"x-a"], seen[b"x-b"], seen[b"x-c"]) == (b"step", b"upstream", b"client")
    assert seen[b"accept"] == b"application/json"
    names = [name for name, _ in (*built.headers.pairs, *built.extra)]
    assert len(names) == len(set(names))


def test_a_body_is_json_with_typed_references() -> None:
    step = {"method": "POST", "body": {"n": "{query.n}", "text": "n={query.n} {{x}}", "deep": [1.5, None, "{query.v}"]}}
    built = request(step, n=b"1.0", v=b'{"a":[1]}')
    assert built.body == b'{"n":1.0,"text":"n=1.0 {x}","deep":[1.5,null,{"a":[1]}]}'
    assert (b"content-type", b"application/json") in built.headers.pairs
