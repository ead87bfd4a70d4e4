"""Paths into JSON: plain names, quoted names, and what cannot be meant."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anabranch.jsontext.path import PathError, parse_path, path_text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ("a",)),
        ("orders.0.sku", ("orders", "0", "sku")),
        ("unit price.x", ("unit price", "x")),
        ("$ref", ("$ref",)),
        ("@id", ("@id",)),
        ("items.@id", ("items", "@id")),
        ("ö.ß", ("ö", "ß")),
        ('"@odata.count"', ("@odata.count",)),
        ('value."@odata.type".x', ("value", "@odata.type", "x")),
        ('"@context".name', ("@context", "name")),
        ('"a\\"b"', ('a"b',)),
        ('"a.b"."c.d"', ("a.b", "c.d")),
        ('"}{"', ("}{",)),
        ('"\\u00fc"', ("ü",)),
        ('" "', (" ",)),
        ('a"b.c\\d', ('a"b', "c\\d")),
    ],
)
def test_names_are_separated_by_dots_outside_of_quotes(text: str, names: tuple[str, ...]) -> None:
    assert parse_path(text) == names
    assert parse_path(path_text(names)) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "separated by dots"),
        (".", "separated by dots"),
        ("a.", "separated by dots"),
        ("a..b", "separated by dots"),
        (" ", "separated by dots"),
        ('""', "separated by dots"),
        ('"a', "never closed"),
        ('"a\\"', "never closed"),
        ('"a"b', "must follow the closing quote"),
        ('"\\x"', "not a JSON string"),
        ('"\\ud800"', "not a JSON string"),
        ("a{b", 'must be in double quotes: "a{b"'),
        ("{query.name}", "a path is no template"),
        ("@odata.count", 'write "@odata.count" if the dot is part of the name, or "@odata".count if it is not'),
        ("value.@odata.count", 'write value."@odata.count" if'),
        ("seats@odata.bind.x", 'write "seats@odata.bind.x" if'),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, message: str) -> None:
    with pytest.raises(PathError) as caught:
        parse_path(text)
    assert message in str(caught.value)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4))
@example(["\x00"])
@example(["*", "?", "a?"])
def test_any_names_can_be_written(names: list[str]) -> None:
    assert parse_path(path_text(tuple(names))) == tuple(names)
