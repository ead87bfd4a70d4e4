"""Bodies are compared by their JSON values, and a difference is reported by its path."""

import pytest

from anabranch.replay.compare import Ignored, compare


def paths(before: bytes, after: bytes, *ignored: str) -> list[tuple[str, str, int]]:
    return [(".".join(change.path), change.kind, change.count) for change in compare(before, after, Ignored(ignored)).changes]


def test_equal_bytes_have_no_difference_and_no_note() -> None:
    found = compare(b'{"a":1}', b'{"a":1}')
    assert found.changes == []
    assert not found.is_respelled


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
        (b'{"a":1.0}', b'{"a":1}'),
        (b'{"a":1e2}', b'{"a":100}'),
        (b'{"a":"\\u00e9"}', '{"a":"é"}'.encode()),
        (b'{"a": 1 }', b'{"a":1}'),
    ],
)
def test_another_spelling_of_the_same_value_is_only_a_note(before: bytes, after: bytes) -> None:
    found = compare(before, after)
    assert found.changes == []
    assert found.is_respelled


def test_long_numbers_differ_by_their_last_digit() -> None:
    assert paths(b'{"a":12345678901234567890123}', b'{"a":12345678901234567890124}') == [("a", "changed", 1)]


@pytest.mark.parametrize(("before", "after"), [(b"[1]", b"[true]"), (b"[0]", b"[false]"), (b"[1]", b'["1"]'), (b"[null]", b"[0]")])
def test_values_of_another_type_differ(before: bytes, after: bytes) -> None:
    assert paths(before, after) == [("", "changed", 1)]


def test_added_and_removed_names_are_reported_with_their_values() -> None:
    gone, come = compare(b'{"a":{"x":[1,2]}}', b'{"a":{"y":0.5}}').changes
    assert (gone.path, gone.kind, gone.before, gone.after) == (("a", "x"), "removed", "[1,2]", None)
    assert (come.path, come.kind, come.before, come.after) == (("a", "y"), "added", None, "0.5")


def test_array_elements_are_compared_and_differences_counted() -> None:
    assert paths(b'{"o":[{"s":1},{"s":2},{"s":3}]}', b'{"o":[{"s":9},{"s":2},{"s":8}]}') == [("o.s", "changed", 2)]


def test_an_array_of_another_length_is_one_difference() -> None:
    (change,) = compare(b'{"o":[1,2,3]}', b'{"o":[1]}').changes
    assert (change.path, change.kind, change.before, change.after) == (("o",), "length", "3", "1")


@pytest.mark.parametrize("ignored", ["meta.time", "meta", "*.time", "**.time"])
def test_ignored_paths_do_not_count_even_in_arrays(ignored: str) -> None:
    assert paths(b'{"meta":[{"time":1},{"time":2}]}', b'{"meta":[{"time":3},{"time":4}]}', ignored) == []


def test_ignored_values_do_not_cause_a_spelling_note() -> None:
    assert not compare(b'{"t":1}', b'{"t":2}', Ignored(["t"])).is_respelled


@pytest.mark.parametrize("ignored", ["meta.times", "time", "*.meta.time", "**.date"])
def test_paths_similar_to_an_ignored_one_count(ignored: str) -> None:
    assert paths(b'{"meta":{"time":1}}', b'{"meta":{"time":3}}', ignored) == [("meta.time", "changed", 1)]


@pytest.mark.parametrize("path", ["", "a..b", "**", "a.**.b"])
def test_an_invalid_path_is_rejected(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        Ignored([path])


def test_a_redacted_value_equals_any_value() -> None:
    assert paths(b'{"card":"***","n":1}', b'{"card":"4111","n":1}') == []
    assert paths(b'{"card":"4111","n":1}', b'{"card":"***","n":1}') == []


def test_bodies_that_are_not_json_are_compared_byte_for_byte() -> None:
    assert paths(b"<a>", b"<b>") == [("", "changed", 1)]
    assert paths(b'{"a":1}', b"") == [("", "changed", 1)]


def test_excessive_nesting_is_one_difference() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert paths(deep, b"[]") == [("", "changed", 1)]


def test_long_values_are_truncated() -> None:
    (change,) = compare(b'"a"', b'"' + b"b" * 1000 + b'"').changes
    assert change.after is not None
    assert len(change.after) == 80
