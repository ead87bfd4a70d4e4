from typing import Any

import pytest

from anabranch.plan.calls import most_calls
from tests.support.documents import plan_of

_A: dict[str, Any] = {"upstream": "a", "path": "/"}
_EACH: dict[str, Any] = {**_A, "path": "/{item.id}", "each": "{a.items}"}
_BATCH: dict[str, Any] = {**_A, "query": {"id": "{batch}"}, "each": "{a.items}", "batch": {"size": 30, "key": "{item.id}", "match": "id"}}


@pytest.mark.parametrize(
    ("steps", "most", "formula"),
    [
        ({}, 1, "1"),
        ({"b": _EACH}, 101, "1 + n, n <= 100"),
        ({"b": {**_EACH, "max_items": 5}}, 6, "1 + n, n <= 5"),
        ({"b": _BATCH}, 5, "1 + ceil(n / 30), n <= 100"),
        ({"b": _EACH, "c": _EACH}, 201, "1 + 2 n, n <= 100"),
        ({"b": _EACH, "c": {**_EACH, "each": "{a.others}", "max_items": 7}}, 108, "1 + n1 + n2, n1 <= 100, n2 <= 7"),
    ],
)
def test_the_most_calls_are_a_number_and_a_formula(steps: dict[str, Any], most: int, formula: str) -> None:
    calls = most_calls(plan_of({"steps": {"a": _A, **steps}}).steps)
    assert (calls.most, calls.formula) == (most, formula)
