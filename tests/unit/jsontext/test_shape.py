"""Decode modes: which one is chosen, and that all give the same value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.errors import InvalidJSON, ShapeError
from anabranch.jsontext import raw
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.shape import DecodeMode, Shape, Slots, choose_mode, compile_reader

names = st.sampled_from(["a", "b", "c", "0", "1", "é", 'q"'])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)), max_leaves=20
)
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
dotted = st.lists(paths.map(".".join), min_size=1, max_size=3)
slot_lists = st.lists(st.one_of(st.just(()), paths), max_size=4, unique=True).map(
    lambda found: [(path, at) for at, path in enumerate(found)]
)
shapes = st.builds(
    Shape,
    target=st.one_of(st.just(()), paths),
    pick=st.one_of(st.none(), dotted.map(raw.tree)),
    drop=st.one_of(st.none(), dotted.map(raw.tree)),
    rename=st.one_of(
        st.none(), st.dictionaries(paths.map(".".join), st.sampled_from(["x", "a", "b"]), min_size=1, max_size=2).map(raw.rename_tree)
    ),
    wrap=st.one_of(st.none(), st.just("w")),
)


def run(shape: Shape, slots: Slots, body: bytes, mode: DecodeMode | None) -> tuple[Any, Frame]:
    frame: Frame = [MISSING] * len(slots)
    value = compile_reader(shape, slots, mode)(body, frame)
    return value, frame


def normal(value: Any) -> Any:
    return value if value is MISSING else json.loads(value)


@given(shape=shapes, slots=slot_lists, value=values, indent=st.sampled_from([None, 2]))
def test_every_mode_gives_the_same_value_and_the_same_references(shape: Shape, slots: Slots, value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=indent is None).encode()
    chosen, chosen_frame = run(shape, slots, body, None)
    full, full_frame = run(shape, slots, body, DecodeMode.FULL)
    assert json.loads(chosen) == json.loads(full)
    assert [normal(item) for item in chosen_frame] == [normal(item) for item in full_frame]


@given(value=values, slots=slot_lists)
def test_a_value_that_no_rule_touches_keeps_its_spelling(value: Any, slots: Slots) -> None:
    body = json.dumps(value, indent=1).encode()
    assert run(Shape(), slots, body, None)[0] == body


@given(body=st.binary(max_size=30), shape=shapes, slots=slot_lists)
def test_every_mode_rejects_anything_but_json(body: bytes, shape: Shape, slots: Slots) -> None:
    def outcome(mode: DecodeMode | None) -> Any:
        try:
            return json.loads(run(shape, slots, body, mode)[0])
        except InvalidJSON:
            return "invalid"

    assert outcome(None) == outcome(DecodeMode.FULL)


@pytest.mark.parametrize(
    ("shape", "slots", "mode"),
    [
        (Shape(), [], DecodeMode.SPLICE),
        (Shape(), [((), 0)], DecodeMode.SPLICE),
        (Shape(wrap="w"), [], DecodeMode.SPLICE),
        (Shape(), [(("a", "b"), 0)], DecodeMode.PROJECT),
        (Shape(), [(("0", "b"), 0)], DecodeMode.FULL),
        (Shape(pick=raw.tree(["a"])), [], DecodeMode.PROJECT),
        (Shape(target=("a",)), [], DecodeMode.PROJECT),
        (Shape(target=("0",)), [], DecodeMode.FULL),
        (Shape(drop=raw.tree(["a"])), [], DecodeMode.FULL),
        (Shape(rename=raw.rename_tree({"a": "b"})), [], DecodeMode.FULL),
        (Shape(must_be="object"), [], DecodeMode.FULL),
    ],
)
def test_the_cheapest_sufficient_mode_is_chosen(shape: Shape, slots: Slots, mode: DecodeMode) -> None:
    assert choose_mode(shape, slots) is mode


def test_numbers_and_strings_keep_their_spelling_through_every_rule() -> None:
    body = rb'{"a": {"n": 12345678901234567890123, "f": 1.0, "e": 1e2, "s": "\u00e9\/"}, "b": 1.50, "c": 0}'
    shape = Shape(target=("a",), drop=raw.tree(["none"]), rename=raw.rename_tree({"f": "g"}), wrap="w")
    assert run(shape, [], body, None)[0] == rb'{"w":{"n":12345678901234567890123,"g":1.0,"e":1e2,"s":"\u00e9\/"}}'
    assert run(Shape(pick=raw.tree(["b", "a.e"])), [], body, None)[0] == b'{"b":1.50,"a":{"e":1e2}}'


def test_pick_applies_to_the_elements_of_arrays() -> None:
    body = b'{"orders": [{"sku": 1, "x": 2}, {"x": 3}, 5], "more": {"sku": 4}}'
    assert run(Shape(pick=raw.tree(["orders.sku"])), [], body, None)[0] == b'{"orders":[{"sku":1},{},null]}'


def test_the_rules_apply_in_the_documented_order() -> None:
    body = b'{"data": {"user": {"id": 1, "name": "x", "secret": 2}}}'
    shape = Shape(target=("data", "user"), pick=raw.tree(["id", "name"]), rename=raw.rename_tree({"name": "title"}), wrap="user")
    value, frame = run(shape, [(("user", "title"), 0)], body, None)
    assert value == b'{"user":{"id":1,"title":"x"}}'
    assert frame == [b'"x"']


def test_an_empty_body_is_null() -> None:
    assert run(Shape(), [(("a",), 0)], b"", None) == (b"null", [MISSING])


def test_a_byte_order_mark_is_removed() -> None:
    assert run(Shape(), [], b'\xef\xbb\xbf{"a":1}', None)[0] == b'{"a":1}'


@pytest.mark.parametrize("body", [b" ", b'{"a":NaN}', b'{"a":"\xff"}', b"{", b"[" * 200_000, b'{"a":1}{}', b'{"a":"\\ud800"}'])
@pytest.mark.parametrize("slots", [[], [(("a",), 0)]])
def test_a_body_that_is_not_utf8_json_is_rejected(body: bytes, slots: Slots) -> None:
    with pytest.raises(InvalidJSON):
        run(Shape(), slots, body, None)


@pytest.mark.parametrize(("body", "is_fine"), [(b"{}", True), (b"null", True), (b"", True), (b"[]", False), (b"1", False)])
def test_only_objects_can_be_merged_by_key(body: bytes, is_fine: bool) -> None:
    if is_fine:
        run(Shape(must_be="object"), [], body, None)
    else:
        with pytest.raises(ShapeError):
            run(Shape(must_be="object"), [], body, None)
