"""Parsing of YAML text to nodes: the core schema, exact positions, and mistakes that are reported instead of raised."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anabranch.config import parse as parse_module
from anabranch.config.node import Located, Mapping, Node, Path, Scalar, Sequence
from anabranch.config.parse import parse
from anabranch.config.problems import Positions, Problems
from anabranch.config.substitute import fill


def _parsed(text: str) -> tuple[Node | None, list[str]]:
    problems = Problems()
    node = parse(text, "f", problems.add_at)
    return node, [str(problem) for problem in problems.errors]


def _data(text: str) -> Any:
    node, mistakes = _parsed(text)
    assert mistakes == []
    assert node is not None
    return fill(node, {}, Problems()).data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("true", True), ("False", False), ("~", None), ("null", None), ("12:30", "12:30"),
        ("2001-01-01", "2001-01-01"), ("0o17", 15), ("0x1F", 31), ("017", 17), ("1_000", "1_000"), ("+1", 1), ("-7", -7), ("1.", 1.0),
        (".5", 0.5), ("1e3", 1000.0), ("'1'", "1"), ('"\\u00fc"', "ü"), ("!!str 5", "5"), ("! 5", "5"), ("!!int '5'", 5),
        ("!!float 5", 5.0), ("|\n  a\n  b\n", "a\nb\n"), ("=", "="), ("0.1.2", "0.1.2"),
    ],
)  # fmt: skip
def test_scalars_follow_the_yaml_core_schema(text: str, value: object) -> None:
    found = _data(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_must_be_text() -> None:
    assert _data("404: a\non: b\n~: c\n1.0: d\n'x y': e") == {"404": "a", "on": "b", "~": "c", "1.0": "d", "x y": "e"}


def test_anchors_aliases_and_merge_keys_work() -> None:
    text = "base: &b {x: 1, y: 2}\nuse: {y: 3, <<: *b}\nmany: {<<: [*b, {x: 9, z: 8}]}\nsame: *b\n'<<': plain"
    data = _data(text)
    assert data["use"] == {"x": 1, "y": 3}
    assert data["many"] == {"x": 1, "y": 2, "z": 8}
    assert data["same"] == {"x": 1, "y": 2}
    assert data["<<"] == "plain"


def test_merged_keys_are_located_where_they_are_written() -> None:
    node, _ = _parsed("base: &b\n  x: 1\nuse:\n  <<: *b\n")
    assert Positions(node).locate(("use", "x")) == ("f", 2, 6)


def test_an_empty_value_is_located_at_its_key() -> None:
    node, _ = _parsed("a:\nb:\n  c:\nd: 1")
    assert Positions(node).locate(("a",)) == ("f", 1, 1)
    assert Positions(node).locate(("b", "c")) == ("f", 3, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "f:3:1: a: duplicate key `a`; the first one is at line 1, column 1"),
        ("s:\n  - x: {k: 1, 'k': 2}", "f:2:15: s[0].x.k: duplicate key `k`; the first one is at line 2, column 9"),
        ("a: *x", "f:1:4: a: the alias `*x` has no anchor `&x` above it"),
        ("a: &x [*x]", "f:1:8: a[0]: the alias `*x` is inside its own anchor"),
        ("? [a, b]\n: c", "f:1:3: document: a key must be a string"),
        ("a: !vault x", "f:1:4: a: the tag `!vault` is not supported; remove it"),
        ("a: !foo {}", "f:1:4: a: the tag `!foo` is not supported; remove it"),
        ("a: !!int x", "f:1:4: a: the value does not match its tag `!!int`"),
        ("a: .nan", "f:1:4: a: infinity and NaN are not allowed; if it is text, put it in quotes"),
        ("a: 1e999", "f:1:4: a: the number is too large; if it is text, put it in quotes"),
        ("a: !!float " + "9" * 400, "f:1:4: a: the number is too large; if it is text, put it in quotes"),
        ("a: " + "9" * 1001, "f:1:4: a: a whole number must have at most 1000 digits; if it is text, put it in quotes"),
        ('a: "\\ud800"', "f:1:4: a: the string has an escape for half of a surrogate pair, which is not a character"),
        ("a: 1\n---\nb: 2", "f:2:1: document: a file can hold only one document; a second one begins here; move it to its own file"),
        ("%YAML 1.1\n---\na: no", "f:1:1: document: only YAML 1.2 is supported; remove the %YAML directive"),
        ("a: {<<: 5}", "f:1:9: a: `<<` must be an alias of a mapping, or a list of such aliases"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", "f:1:17: a: duplicate key `<<`; to merge several mappings, give it a list of aliases"),
    ],
)
def test_a_recoverable_mistake_is_located(text: str, expected: str) -> None:
    node, mistakes = _parsed(text)
    assert mistakes == [expected]
    assert isinstance(node, Mapping)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", "f:1:5: document: invalid YAML: mapping values are not allowed here; put strings that contain `: ` in quotes"),
        ("a:\n\tb: 1", "f:2:1: document: invalid YAML: found character '\\t' that cannot start any token; indent with spaces"),
        ("a: 1\nb: [1,", "f:2:7: document: invalid YAML: expected the node content"),
        ("a: 'x", "f:1:6: document: invalid YAML: found unexpected end of stream"),
        (
            "a: {b: ${X}}",
            "f:1:9: document: invalid YAML: expected ',' or '}', but got '{'; put `${...}` in quotes inside braces or brackets",
        ),
        ("ok: 1\na: \x01", "f:2:4: document: the character U+0001 is not allowed in YAML; write it in double quotes as an escape"),
        ('a: "\\UFFFFFFFF"', "f:1:1: document: invalid YAML near here"),
    ],
)
def test_broken_syntax_is_located(text: str, expected: str) -> None:
    node, mistakes = _parsed(text)
    assert node is None
    assert len(mistakes) == 1
    assert mistakes[0].startswith(expected)


def test_aliases_cannot_multiply_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    node, mistakes = _parsed("\n".join(lines))
    assert "expand to more than 100000 values" in mistakes[0]
    assert node is not None
    fill(node, {}, Problems())


@pytest.mark.parametrize("text", ["[" * 3000, "a: " + "[" * 101 + "]" * 101, "\n".join(" " * n + f"k{n}:" for n in range(150))])
def test_nesting_cannot_exhaust_the_stack(text: str) -> None:
    node, mistakes = _parsed(text)
    assert node is None
    assert "nested more than 100 levels deep" in mistakes[0]


def test_aliases_cannot_nest_deeper_than_plain_text() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)]
    node, mistakes = _parsed("\n".join(lines))
    assert node is None
    assert "nested more than" in mistakes[0]


_FRAGMENTS = st.sampled_from(
    [
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "? ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&x ",
        "*x",
        "<<: ",
        "!t ",
        "!!int ",
        "'",
        '"',
        "\\u",
        "|",
        ">",
        "#",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "\t",
        "${A",
        "}",
        "12",
        "\x00",
        "\ufeff",
        "\u2028",
        "\ud800",
        "@",
        "`",
        "=",
        "\\UFFFFFFFF",
        "!<",
        "%",
    ]
)


@pytest.mark.parametrize("fault", [AssertionError, AttributeError, KeyError, TypeError, IndexError, ValueError])
def test_a_fault_of_ours_is_not_reported_as_one_of_the_document(fault: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise fault("ours")

    monkeypatch.setattr(parse_module._Builder, "_take", failing)
    with pytest.raises(fault, match="ours"):
        _parsed("a: 1")


def test_an_alias_in_place_of_the_document_is_a_problem() -> None:
    node, mistakes = _parsed("*a")
    assert node is not None
    assert len(mistakes) == 1
    assert "has no anchor" in str(mistakes[0])


@given(st.lists(_FRAGMENTS, max_size=25).map("".join) | st.text(max_size=60))
@example('"\\UFFFFFFFF"')
@example("%YAML 1.1 x\n---")
@example("!<%zz> a")
@settings(max_examples=400, deadline=None)
def test_any_text_yields_nodes_or_problems(text: str) -> None:
    node, mistakes = _parsed(text)
    if mistakes == [] and node is not None:
        json.dumps(fill(node, {}, Problems()).data, allow_nan=False).encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(_JSON)
@settings(max_examples=150, deadline=None)
def test_json_is_read_as_json_with_correct_positions(value: Any) -> None:
    text = json.dumps({"top": value}, indent=1)
    lines = text.split("\n")
    node, mistakes = _parsed(text)
    assert mistakes == []
    assert node is not None
    data = fill(node, {}, Problems()).data
    if "${" not in text:
        assert data == {"top": value}

    def check(part: Node, path: Path) -> None:
        where = Positions(node).locate(path)
        rest = lines[where.line - 1][where.column - 1 :]
        if isinstance(part, Scalar):
            assert rest.rstrip(",") == json.dumps(part.value)
        elif isinstance(part, Sequence):
            assert rest.startswith("[")
            for index, item in enumerate(part.items):
                check(item, (*path, index))
        else:
            assert rest.startswith("{")
            for key, entry in part.entries.items():
                at = Positions(node).locate((*path, key), at_key=True)
                assert at == entry.where
                assert lines[at.line - 1][at.column - 1 :].startswith(json.dumps(key))
                check(entry.value, (*path, key))

    check(node, ())


def test_positions_are_counted_in_characters_from_one() -> None:
    node, _ = _parsed("ü: [é, {k: v}]")
    assert Positions(node).locate(("ü", 1, "k")) == Located("f", 1, 12)
