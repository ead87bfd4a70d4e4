import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.jsontext.frame import MISSING
from anabranch.jsontext.into import place, put_into
from anabranch.jsontext.path import parse_paths
from anabranch.jsontext.project import table
from anabranch.jsontext.raw import get


@pytest.mark.parametrize(
    ("value", "path", "joined"),
    [
        (b'{"items": [{"id": 1.0}, {}], "n":1e2}', "items", b'{"items":[{"id": 1.0,"p":1},{"p":2}],"n":1e2}'),
        (b"[ {} , { } ]", "*", b'[{"p":1},{ "p":2}]'),
        (b'[{"p": 0, "q": 1}, {"\\u0070": 0}]', "*", b'[{"q":1,"p":1},{"p":2}]'),
        (b'[null, 7, {"a": "p"}, "x"]', "*", b'[null,7,{"a": "p","p":3},"x"]'),
        (b'{"l": [{"n": [{}]}, {}, {"n": [{}, {}]}]}', "l.*.n.*", b'{"l":[{"n":[{"p":1}]},{},{"n":[{"p":2},{"p":3}]}]}'),
        (b'{"l": [{"n": {}}, {"n": {"a":1}}]}', "l.*.n", b'{"l":[{"n":{"p":1}},{"n":{"a":1,"p":2}}]}'),
        (b'{"l": [[{}], [{}]]}', "l.1", b'{"l":[[{}],[{"p":1}]]}'),
        (b'{"other": 1}', "items", b'{"other": 1}'),
        (b'{"items": {"id": 1}}', "items", b'{"items":{"id": 1}}'),
    ],
)
def test_results_go_into_the_elements_in_their_order(value: bytes, path: str, joined: bytes) -> None:
    assert put_into(value, place(parse_paths(path)), "p", [b"1", b"2", b"3"], b"null") == joined


def test_what_has_no_result_gets_the_rest() -> None:
    assert put_into(b"[{},{},{}]", place(()), "p", [b"1"], b'"none"') == b'[{"p":1},{"p":"none"},{"p":"none"}]'


names = st.sampled_from(["a", "b", "é", 'q"', "0"])
values = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=12,
)


@given(array=st.lists(values, max_size=5), paths=st.lists(st.lists(names, max_size=2).map(tuple), min_size=1, max_size=3))
def test_a_table_has_what_each_element_has_at_each_path(array: list[Any], paths: list[tuple[str, ...]]) -> None:
    text = json.dumps(array, ensure_ascii=False).encode()
    found = [[None if cell is MISSING else json.loads(bytes(cell)) for cell in row] for row in table(paths)(text)]  # type: ignore[arg-type]
    one_by_one = [[get(json.dumps(element).encode(), path) for path in paths] for element in array]
    assert found == [[None if cell is MISSING else json.loads(bytes(cell)) for cell in row] for row in one_by_one]  # type: ignore[arg-type]
