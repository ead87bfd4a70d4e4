"""Joins of lists: what matches, what is kept as it was spelled, and that the time is linear."""

import json
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.jsontext.join import Join, join
from anabranch.jsontext.order import carry_out, joining, pack_values

BY_ID = Join(left=(("id",),), right=(("id",),), name="r")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (b"[]", b"[]", b"[]"),
        (b'[{"id":17}]', b'[{"id":"17"}]', b'[{"id":17,"r":{"id":"17"}}]'),
        (b'[{"id":1.0}]', b'[{"id":1}]', b'[{"id":1.0,"r":null}]'),
        (b'[{"id":"\\u0061"}]', b'[{"id":"a","n":1e2}]', b'[{"id":"\\u0061","r":{"id":"a","n":1e2}}]'),
        (b'[{"id":null},{}]', b'[{"id":null},{}]', b'[{"id":null,"r":null},{"r":null}]'),
        (b'[{"id":[1]},{"id":{}}]', b'[{"id":[1]},{"id":{}}]', b'[{"id":[1],"r":null},{"id":{},"r":null}]'),
        (b'[{"id":true}, "x", [1]]', b'[{"id":true}]', b'[{"id":true,"r":{"id":true}},"x",[1]]'),
        (b'[{"id":1,"r":2}]', b'[{"id":1,"n":1},{"id":1,"n":2}]', b'[{"id":1,"r":{"id":1,"n":1}}]'),
    ],
)
def test_elements_get_what_matches_them(left: bytes, right: bytes, expected: bytes) -> None:
    assert join(left, right, BY_ID) == expected
    assert carry_out(joining(BY_ID), pack_values([left, right])) == expected


def test_an_inner_join_drops_what_matches_nothing() -> None:
    rule = Join(left=(("id",),), right=(("id",),), name="r", is_inner=True, is_many=True)
    assert join(b'[{"id":1},{"id":2},3]', b'[{"id":1},{"id":1}]', rule) == b'[{"id":1,"r":[{"id":1},{"id":1}]}]'


def test_every_pair_of_keys_has_to_match() -> None:
    rule = Join(left=(("a", "b"), ("c",)), right=(("x",), ("y", "0")), name="r")
    right = b'[{"x":1,"y":[2]},{"x":1,"y":[3]}]'
    assert join(b'[{"a":{"b":1},"c":3},{"a":{"b":1},"c":4}]', right, rule) == (
        b'[{"a":{"b":1},"c":3,"r":{"x":1,"y":[3]}},{"a":{"b":1},"c":4,"r":null}]'
    )


KEYS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["1", "a", "true"]))
ELEMENTS: st.SearchStrategy[list[object]] = st.lists(
    st.one_of(KEYS, st.builds(dict, id=KEYS, n=st.integers(0, 9)), st.just({})), max_size=6
)


def _text(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


@given(left=ELEMENTS, right=ELEMENTS, is_inner=st.booleans(), is_many=st.booleans())
def test_it_is_what_a_nested_loop_gives(left: list[object], right: list[object], *, is_inner: bool, is_many: bool) -> None:
    expected: list[object] = []
    for element in left:
        key = _text(element.get("id")) if isinstance(element, dict) else None
        found = [other for other in right if isinstance(other, dict) and key is not None and _text(other.get("id")) == key]
        if not found and is_inner:
            continue
        match = found if is_many else found[0] if found else None
        expected.append({**element, "r": match} if isinstance(element, dict) else element)
    rule = Join(left=(("id",),), right=(("id",),), name="r", is_inner=is_inner, is_many=is_many)
    assert json.loads(join(json.dumps(left).encode(), json.dumps(right).encode(), rule)) == expected


def test_the_time_is_linear() -> None:
    def seconds(size: int) -> float:
        text = json.dumps([{"id": number} for number in range(size)]).encode()
        began = perf_counter()
        join(text, text, BY_ID)
        return perf_counter() - began

    seconds(1000)
    assert seconds(20_000) < 100 * max(seconds(1000), 0.0005)
