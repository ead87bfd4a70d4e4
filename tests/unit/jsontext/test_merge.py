"""Merging: which value wins, and the order, byte for byte."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anabranch.jsontext import merge
from tests.support.documents import plan_of

objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.lists(st.integers(), max_size=2), st.none()), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def deep_reference(earlier: Any, later: Any, *, concat: bool) -> Any:
    if isinstance(earlier, dict) and isinstance(later, dict):
        merged = dict(earlier)
        for key, value in later.items():
            merged[key] = deep_reference(earlier[key], value, concat=concat) if key in earlier else value
        return merged
    if concat and isinstance(earlier, list) and isinstance(later, list):
        return earlier + later
    return later


@given(st.lists(objects, min_size=1, max_size=4), st.booleans())
def test_deep_merging_matches_its_definition(values: list[Any], concat: bool) -> None:
    assemble = merge.deep([(index, str(index)) for index in range(len(values))], concat_arrays=concat)
    expected: Any = {}
    for value in values:
        expected = deep_reference(expected, value, concat=concat)
    assert json.loads(assemble([json.dumps(value).encode() for value in values], [])) == expected


@given(st.lists(objects, min_size=1, max_size=4))
def test_flat_merging_matches_its_definition(values: list[Any]) -> None:
    assemble = merge.flat([(index, str(index)) for index in range(len(values))])
    expected: dict[str, Any] = {}
    for value in values:
        expected |= value
    assert json.loads(assemble([json.dumps(value).encode() for value in values], [])) == expected


def test_group_keeps_the_spelling_of_values() -> None:
    assert merge.group([(1, "b"), (0, 'a"')])([b" 1.0", b"[1e5 ]"], []) == b'{"b":[1e5 ],"a\\"": 1.0}'
    assert merge.group([])([b"1"], []) == b"{}"


def test_null_adds_nothing_to_a_merge_by_keys() -> None:
    both = [(0, "a"), (1, "b")]
    assert merge.flat(both)([b'{"x":1.0}', b"null"], []) == b'{"x":1.0}'
    assert merge.deep(both, concat_arrays=False)([b"null", b'{"x":1.0}'], []) == b'{"x":1.0}'


def test_a_hand_written_response_has_null_for_missing_values() -> None:
    steps = {"s": {"upstream": "a", "path": "/"}, "t": {"upstream": "a", "path": "/"}}
    plan = plan_of({"steps": steps, "response": {"body": {"x": "{s.a}", "y": "v{s.b}", "all": "{t}", "k": [True, "{{}}"]}}})
    frame = plan.new_frame()
    plan.steps[0].read(b'{"a": 1.50}', frame)
    assert plan.response.assemble([], frame) == b'{"x":1.50,"y":null,"all":null,"k":[true,"{}"]}'
    assert plan.response.visible == (0, 1)


def test_what_is_left_out_leaves_no_trace() -> None:
    visible = [(0, "a"), (1, "b"), (2, "c")]
    for values, body in (
        ([merge.ABSENT, b"1.0", merge.ABSENT], b'{"b":1.0}'),
        ([b"null", merge.ABSENT, b"[]"], b'{"a":null,"c":[]}'),
        ([merge.ABSENT] * 3, b"{}"),
    ):
        assert merge.group(visible, may_be_absent=True)(values, []) == body
    for assemble in (merge.flat(visible), merge.deep(visible, concat_arrays=True)):
        assert assemble([merge.ABSENT, b'{"x":1.0}', merge.ABSENT], []) == b'{"x":1.0}'
        assert assemble([merge.ABSENT] * 3, []) == b"{}"


@given(
    st.lists(st.one_of(st.none(), st.lists(st.one_of(objects, st.text(max_size=3)), max_size=3)), max_size=4),
    st.sampled_from(["", " ", "\n\t "]),
)
def test_concat_matches_its_definition(values: list[Any], space: str) -> None:
    texts = [f"[{space}]" if value == [] else json.dumps(value) for value in values]
    assemble = merge.concat([(index, str(index)) for index in range(len(values))])
    expected = [element for value in values if value is not None for element in value]
    assert json.loads(assemble([text.encode() for text in texts], [])) == expected


def test_a_member_behind_a_template_is_there_only_with_a_value() -> None:
    for rendered, expected in ((b"{}", b'{"x":[1]}'), (b'{"a":1}', b'{"a":1,"x":[1]}')):
        assemble = merge.with_member(lambda _frame, text=rendered: text, "x", 1)  # type: ignore[misc]
        assert assemble([b"0", b"[1]"], []) == expected
        assert assemble([b"0", merge.ABSENT], []) == rendered
