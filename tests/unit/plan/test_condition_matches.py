"""`{x} matches "re"`: the infix form, which CEL itself does not have."""

from typing import Any

import pytest

from anabranch.errors import ConditionFailed
from anabranch.jsontext.frame import MISSING
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.reference import parse


def compiled(text: str) -> Condition:
    slots: dict[str, int] = {}
    return compile_condition(text, parse(text), lambda reference: slots.setdefault(str(reference), len(slots)))


def holds(text: str, *values: Any) -> bool:
    return compiled(text)(list(values))


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ('{header.user-agent} matches "(?i)bot|curl"', "Mozilla GOOGLEBOT", True),
        ('{header.user-agent} matches "(?i)bot|curl"', "Mozilla", False),
        ("!{header.a}   matches   '^x$'", "x", False),
        ("!({header.a} matches '^x$')", "y", True),
        ('{header.a}.matches("^[0-9]+$")', "42", True),
        ('{header.a} matches r"^\\d+$"', "42", True),
        ('{header.a} == "x matches \\"y\\"" || {header.a} matches "z"', "z", True),
        ('{header.a} == "a matches b"', "a matches b", True),
        ('[{header.a}].exists(m, m matches "^v") && true', "vv", True),
        ('({header.a} + "!") matches "!$"', "x", True),
    ],
)
def test_infix_form_is_the_call(text: str, value: str, expected: bool) -> None:
    assert holds(text, value) is expected


@pytest.mark.parametrize("text", ['{header.a} matches "(?=x)"', "{header.a}.matches('(')", '{header.a} matches "(a{{1000}}){{1000}}"'])
def test_text_that_is_no_expression_is_found_when_the_document_is_loaded(text: str) -> None:
    with pytest.raises(ConditionError, match="is not a regular expression"):
        holds(text, "x")


@pytest.mark.parametrize("text", ['matches "x"', "{header.a} matches", "{header.a} matches 5", '{header.a} matches "x" matches "y"'])
def test_what_is_no_condition_stays_none(text: str) -> None:
    with pytest.raises(ConditionError):
        holds(text, "x")


def test_what_a_value_matches_is_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = compiled('{header.a}.matches("^x+$")')
    values: list[Any] = ["x", "y", "x", b'"x"', b'"y"', "x" * 600, "x" * 600, "y"]
    assert [condition([value]) for value in values] == [True, False, True, True, False, True, True, False]
    with pytest.raises(ConditionFailed):
        condition([MISSING])
    monkeypatch.setattr("anabranch.plan.condition._MOST_REMEMBERED", 2)
    assert all(condition(["x" * length]) for length in (1, 2, 3, 1, 2, 3))
    with pytest.raises(ConditionFailed):
        condition([True])
