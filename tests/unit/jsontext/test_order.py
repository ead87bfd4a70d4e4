"""Reading and merging in a worker gives the same values, slots and faults as on the loop."""

from typing import Any

import orjson
import pytest

from anabranch.errors import InvalidJSON, ShapeError, StepError
from anabranch.jsontext import merge, raw
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.order import (
    MERGE_FROM,
    PICK_FROM,
    PLAIN_FROM,
    REBUILD_FROM,
    carry_out,
    merging,
    pack_values,
    reading,
    settle_reading,
)
from anabranch.jsontext.shape import Shape, choose_mode, compile_reader

BODY = orjson.dumps({"a": {"b": [1, 2.50, "\u00e9"]}, "rows": [{"id": 1, "x": None}, {"id": 2}], "n": 1})
SHAPES = [
    Shape(),
    Shape(must_be_object=True),
    Shape(target=("a", "b")),
    Shape(pick=raw.tree(["rows.id", "n"])),
    Shape(drop=raw.tree(["rows.x", "a.b"])),
    Shape(rename=raw.rename_tree({"a.b": "c", "n": "m"})),
    Shape(rename=raw.rename_tree({"n": "m"})),  # keeps its length
    Shape(wrap="all"),
]
SLOTS = [[], [((), 0)], [(("n",), 1), ((), 0)], [(("a", "b", "1"), 0), (("gone",), 2), (("rows",), 1)]]
BODIES = [BODY, BODY + b"\n", b"\xef\xbb\xbf" + BODY, b"[1]", b"null", b'{"a":', b'"\xff"', b'"\\ud800"']


def outcome(do: Any) -> tuple[Any, Frame]:
    frame: Frame = [MISSING] * 3
    try:
        return do(frame), frame
    except StepError as error:
        return (error.code, error.detail, error.may_be_processed), [MISSING] * 3


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_reading_in_a_worker_gives_the_same_result_as_on_the_loop(shape: Shape, slots: Any) -> None:
    mode = choose_mode(shape, slots)
    here = compile_reader(shape, slots, mode)
    elsewhere = reading(shape, slots, mode)

    def far(body: bytes, frame: Frame) -> bytes:
        return settle_reading(elsewhere, body, carry_out(elsewhere.order, body), frame)

    for body in BODIES:
        assert outcome(lambda frame, body=body: far(body, frame)) == outcome(lambda frame, body=body: here(body, frame))


@pytest.mark.parametrize("kind", ["flat", "deep", "deep_concat"])
def test_merging_in_a_worker_gives_the_same_result_as_on_the_loop(kind: str) -> None:
    values = [b'{"a":{"x":[1]},"b":1.50}', b"null", b'{"a":{"x":[2],"y":"z"}}']
    visible = [(index, str(index)) for index in range(3)]
    here = merge.flat(visible) if kind == "flat" else merge.deep(visible, concat_arrays=kind == "deep_concat")
    assert carry_out(merging(kind), pack_values(values)) == here(values, [])


@pytest.mark.parametrize("kind", ["flat", "deep", "deep_concat"])
def test_what_is_left_out_is_left_out_elsewhere_too(kind: str) -> None:
    values = [merge.ABSENT, b'{"a":{"x":[1]}}', merge.ABSENT]
    assert carry_out(merging(kind), pack_values(values)) == values[1]
    assert carry_out(merging(kind), pack_values([merge.ABSENT])) == b"{}"


def test_threshold_depends_on_the_cost_of_the_rules() -> None:
    def limit(shape: Shape) -> int:
        return reading(shape, [], choose_mode(shape, [])).from_bytes

    assert limit(Shape()) == PLAIN_FROM
    assert limit(Shape(pick=raw.tree(["a"]))) == PICK_FROM
    assert limit(Shape(target=("a",))) == PICK_FROM
    assert limit(Shape(drop=raw.tree(["a"]))) == REBUILD_FROM
    assert limit(Shape(rename=raw.rename_tree({"a": "b"}))) == REBUILD_FROM
    assert REBUILD_FROM < MERGE_FROM < PICK_FROM < PLAIN_FROM


def test_rules_too_long_for_an_order_stay_on_the_loop() -> None:
    shape = Shape(pick=raw.tree([f"a_long_name_{number}" for number in range(4_000)]))
    assert reading(shape, [], choose_mode(shape, [])).from_bytes > 1 << 60


def test_faults_keep_their_class() -> None:
    elsewhere = reading(Shape(must_be_object=True), [], choose_mode(Shape(must_be_object=True), []))
    with pytest.raises(ShapeError):
        settle_reading(elsewhere, b"[1]", carry_out(elsewhere.order, b"[1]"), [])
    with pytest.raises(InvalidJSON):
        settle_reading(elsewhere, b"[1", carry_out(elsewhere.order, b"[1"), [])


def test_a_merged_value_is_picked_in_the_worker_too() -> None:
    values = [b'{"a": 1, "o": {"p": 1, "q": 2}}', b'{"b": 2}']
    assert carry_out(merging("flat", pick={"o": {"q": {}}, "b": {}}), pack_values(values)) == b'{"o":{"q":2},"b":2}'
    assert carry_out(merging("group", ["x", "y"], {"x": {"o": {"p": {}}}}), pack_values(values)) == b'{"x":{"o":{"p":1}}}'
    assert carry_out(merging("group", ["x", "y"], {"x": {"a": {}}, "y": {}}), pack_values([values[0], merge.ABSENT])) == b'{"x":{"a":1}}'
