"""The grammar of selections: what they select, where a fault is, and that their size is bounded."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.jsontext import raw
from anabranch.jsontext.select import MOST_CHARS, MOST_LEVELS, MOST_NAMES, PATTERN, SelectionError, parse
from anabranch.jsontext.values import write

names = st.one_of(
    st.sampled_from(["a", "b", "id", "x-y", "$t", "é"]), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
)
trees: st.SearchStrategy[raw.Tree] = st.recursive(
    st.just({}), lambda below: st.dictionaries(names, below, min_size=1, max_size=3), max_leaves=10
).filter(bool)
_PLAIN = re.compile(r'[^\s\x1c-\x1f\x85.,()\[\]{}"*/\\]+')


def text_of(tree: raw.Tree, draw_dot: bool) -> str:
    parts = []
    for name, below in tree.items():
        part = name if _PLAIN.fullmatch(name) and "@" not in name else write(name).decode()
        if below:
            part += f".{text_of(below, draw_dot)}" if draw_dot and len(below) == 1 else f" ( {text_of(below, draw_dot)} ) "
        parts.append(part)
    return ",".join(parts)


def in_order(tree: raw.Tree) -> raw.Tree:
    return {name: in_order(tree[name]) for name in sorted(tree)}


@settings(max_examples=50)
@given(tree=trees, has_dots=st.booleans())
def test_every_tree_can_be_written_and_is_read_in_alphabetical_order(tree: raw.Tree, has_dots: bool) -> None:
    text = text_of(tree, has_dots)
    selection = parse([text])
    assert list(selection.tree) == sorted(tree)
    assert raw.encode(selection.tree) == selection.key == raw.encode(in_order(tree))
    assert re.fullmatch(PATTERN, text)


@given(text=st.text(alphabet=st.sampled_from(list('ab.,()"*\\ @é/{'))))
def test_any_text_is_a_selection_or_a_fault_at_a_place_inside_it(text: str) -> None:
    try:
        selection = parse([text])
    except SelectionError as error:
        place = re.search(r"at character (\d+)", str(error))
        assert place is None or 1 <= int(place[1]) <= len(text) + 1
    else:
        assert re.fullmatch(PATTERN, text)
        assert parse([f" {text} ,{text}"]).key == selection.key


@pytest.mark.parametrize(
    ("texts", "key"),
    [
        (["flight(id,carrier),weather.temp"], b'{"flight":{"carrier":{},"id":{}},"weather":{"temp":{}}}'),
        (["b", "a.x", "a(y)"], b'{"a":{"x":{},"y":{}},"b":{}}'),
        (["a.b.c,a.b,a.b.d"], b'{"a":{"b":{}}}'),
        (["a.*,a.b"], b'{"a":{}}'),
        (["a(b(*),c)"], b'{"a":{"b":{},"c":{}}}'),
        (["a,*"], b"{}"),
        (['"a.b"."(c)"'], b'{"a.b":{"(c)":{}}}'),
        (["a\u00a0,\u2003b"], b'{"a":{},"b":{}}'),
    ],
)
def test_equal_selections_have_equal_keys(texts: list[str], key: bytes) -> None:
    assert parse(texts).key == key


def test_places_are_of_the_names_of_the_first_level() -> None:
    assert parse([' a(b), "c".d,a']).places == {"a": 1, "c": 7}


@pytest.mark.parametrize(
    "text",
    [
        "a" * (MOST_CHARS + 1),
        ",".join(["a"] * (MOST_NAMES + 1)),
        ".".join("a" * (MOST_LEVELS + 1)),
        "(" * MOST_CHARS,
        "a(" * (MOST_CHARS // 2),
    ],
)
def test_the_size_of_a_selection_is_bounded(text: str) -> None:
    with pytest.raises(SelectionError):
        parse([text])


def test_the_bounds_are_of_all_texts_together() -> None:
    parse(["a"] * MOST_NAMES)
    with pytest.raises(SelectionError, match="names"):
        parse(["a"] * (MOST_NAMES + 1))
    with pytest.raises(SelectionError, match="too long"):
        parse(["a" * MOST_CHARS, "a"])
