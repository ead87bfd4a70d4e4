from urllib.parse import parse_qsl, urlencode

from hypothesis import given
from hypothesis import strategies as st

from anabranch.core.percent import decode, parse_query


def test_plus_is_a_space_and_encoded_plus_is_a_plus() -> None:
    assert parse_query(b"a+b=c+d&e=%2B") == {"a b": ["c d"], "e": ["+"]}


def test_repeats_are_kept_in_order() -> None:
    assert parse_query(b"a=1&b=2&a=3") == {"a": ["1", "3"], "b": ["2"]}


def test_name_without_a_value_is_empty_and_empty_pairs_are_skipped() -> None:
    assert parse_query(b"&a&&b=&=c") == {"a": [""], "b": [""], "": ["c"]}


def test_only_the_first_equals_sign_separates() -> None:
    assert parse_query(b"a=b=c") == {"a": ["b=c"]}


def test_value_that_is_not_utf8_is_none_and_such_a_name_is_left_out() -> None:
    assert parse_query(b"a=%FF&%FE=1&b=\xff") == {"a": [None], "b": [None]}


def test_percent_without_two_digits_is_literal() -> None:
    assert parse_query(b"a=100%&b=%zz") == {"a": ["100%"], "b": ["%zz"]}
    assert decode("50%") == "50%"


def test_raw_utf8_is_accepted() -> None:
    assert parse_query("stadt=Köln".encode()) == {"stadt": ["Köln"]}


_TEXT = st.text(st.characters(codec="utf-8"), max_size=10)


@given(st.lists(st.tuples(_TEXT, _TEXT), max_size=8))
def test_text_encoded_by_browsers_is_decoded(pairs: list[tuple[str, str]]) -> None:
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        expected.setdefault(name, []).append(value)
    assert parse_query(urlencode(pairs).encode()) == expected


@given(st.text(st.sampled_from("ab=&%+20FcC3é"), max_size=30))
def test_splitter_agrees_with_the_standard_library(query: str) -> None:
    raw = query.encode()
    flat = [(name, value) for name, values in parse_query(raw).items() for value in values]
    slow = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")

    def is_text(text: str) -> bool:
        return not any("\ud800" <= char <= "\udfff" for char in text)

    expected = [(name, value if is_text(value) else None) for name, value in slow if is_text(name)]
    assert sorted(flat, key=repr) == sorted(expected, key=repr)
