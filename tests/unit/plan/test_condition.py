"""Conditions: which expressions are accepted, in which words others are refused, and what they say about a request."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from anabranch.errors import ConditionFailed, MissingExtraError
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.plan.condition import Condition, ConditionError, compile_condition
from anabranch.plan.reference import Reference, parse
from tests.support.documents import plan_of, problems_of


class Slots:
    """Gives each reference a slot, and makes frames of their values."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, reference: Reference) -> int:
        return self.known.setdefault(str(reference), len(self.known))

    def frame(self, values: dict[str, Any]) -> Frame:
        assert values.keys() <= self.known.keys()
        return [values.get(name, MISSING) for name in self.known]


def compiled(text: str) -> tuple[Condition, Slots]:
    slots = Slots()
    return compile_condition(text, parse(text), slots), slots


def holds(text: str, **values: Any) -> bool:
    """Whether a condition holds for these values of `{name}`. Any other reference has no value."""
    condition, slots = compiled(text)
    return condition(slots.frame({f"{{{name}}}": value for name, value in values.items()}))


def failure(text: str, **values: Any) -> str:
    with pytest.raises(ConditionFailed) as caught:
        holds(text, **values)
    return caught.value.detail


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a condition must not be empty"),
        ("  ", "a condition must not be empty"),
        ("'{a}' == 'x'", "{a} stands inside quotes, where CEL reads it as text: write it without them"),
        ('{b} == "it is {a.b}"', "{a.b} stands inside quotes, where CEL reads it as text: write it without them"),
        (r"'it\'s {a}'", "{a} stands inside quotes, where CEL reads it as text: write it without them"),
        ("a == 1", "unknown name `a`: a reference is written in braces, text in quotes"),
        ("{a} == open", "unknown name `open`: a reference is written in braces, text in quotes"),
        ("zebra == apple", "unknown name `apple`: a reference is written in braces, text in quotes"),
        ("{a}b == 1", "not a CEL expression: at 1:4: Syntax error: mismatched input 'b' expecting "),
        ("now() > {a}", "unknown function `now`"),
        ("{a}.trim() == ''", "unknown function `trim`"),
        ("{flight.cancelled} ==", "not a CEL expression: at 1:22: Syntax error: mismatched input '<EOF>' expecting "),
        ("{flight.cancelled} = false", "not a CEL expression: at 1:20: Syntax error: "),
        ("@ {a}", "not a CEL expression: at 1:1: Syntax error: token recognition error at: '@'"),
        ("{a} == 18446744073709551616", "not a CEL expression: at 1:8: invalid int literal"),
        ("v0 == {a}", "unknown name `v0`: a reference is written in braces, text in quotes"),
        (
            "{a}.exists(i, i.exists(j, j.exists(k, k == 1)))",
            "a macro such as `exists` can stand inside another one, but not deeper: it would take too long",
        ),
        (
            "{a}. exists (i, i.all(j, j.map(k, k) == [')']))",
            "a macro such as `exists` can stand inside another one, but not deeper: it would take too long",
        ),
        ("{a} == 1\n  && ,", "not a CEL expression: at 2:6: Syntax error: "),
    ],
)
def test_what_is_not_a_condition_is_refused_with_the_reason(text: str, sentence: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compiled(text)
    # What the evaluator would have expected instead is a list of its tokens.
    assert str(caught.value).startswith(sentence) if "yntax" in sentence else str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("true", {}, True),
        ("{a} == 1", {"a": b"1"}, True),
        ("{a} == 1.0", {"a": b"1"}, True),
        ("{a} == '1'", {"a": b"1"}, False),
        ("{a} == 'it\\'s' && {b}", {"a": b'"it\'s"', "b": b"true"}, True),
        ('{a} == "x" || {b} == \'"\' && {a} != {b}', {"a": b'"x"', "b": b'"y"'}, True),
        ("{a.b} > 2 && {a.b} < 3", {"a.b": b"2.5"}, True),
        ("{a} in ['x', 'y']", {"a": "y"}, True),
        ("{a}.startsWith('x') && !{a}.endsWith('x') && {a}.contains('y') && {a}.matches('^x+y+$')", {"a": "xxy"}, True),
        ("size({a}) == 2 && {a}.size() == 2", {"a": ["x", "y"]}, True),
        ("{a}.exists(item, item.n > 1) && {a}.all(item, has(item.n))", {"a": b'[{"n":1},{"n":2}]'}, True),
        ("{a}.filter(i, i > 1).map(i, i * 2) == [4]", {"a": b"[1,2]"}, True),
        ("{a}.b['c'] == 1", {"a": b'{"b":{"c":1}}'}, True),
        ("timestamp({a}) < timestamp({b}) + duration('1h')", {"a": "2024-01-01T00:30:00Z", "b": "2024-01-01T00:00:00Z"}, True),
        ("type({a}) == string ? {a} != '' : {a} != 0", {"a": b"0"}, False),
        ("{a} == {{'b': 1}}", {"a": b'{"b":1}'}, True),
        ("{a}", {"a": True}, True),
        ("{a}", {"a": b"false"}, False),
        ("{a} == 12345678901234567890u || {a} == 1", {"a": b"1"}, True),
        ("{a}.exists(v0, v0 == 1) && {b}", {"a": b"[1]", "b": True}, True),
        ("{a}.exists(i, {b}.exists(j, i == j))", {"a": b"[1]", "b": b"[2, 1]"}, True),
        ("{a}.exists(i, i == 1) && {a}.all(i, i > 0) && {a}.map(i, i) == [1] && {a}.filter(i, true).size() == 1", {"a": b"[1]"}, True),
        ("{a} == '.exists(i, i.exists(j, j.exists(k,'", {"a": ".exists(i, i.exists(j, j.exists(k,"}, True),
        ("{a} ==\n  1 // as the service counts", {"a": b"1"}, True),
    ],
)
def test_a_condition_is_evaluated_on_the_values_of_its_references(text: str, values: dict[str, Any], expected: bool) -> None:
    assert holds(text, **values) is expected


def test_a_reference_that_stands_twice_has_one_slot() -> None:
    _, slots = compiled("{a.b} == 1 || {a.b} == 2 || {a.c}")
    assert slots.known == {"{a.b}": 0, "{a.c}": 1}


@pytest.mark.parametrize("value", [MISSING, None, b"null"])
def test_a_reference_without_a_value_is_null(value: Any) -> None:
    assert holds("{a} == null", a=value)
    assert not holds("{a} == 1", a=value)
    assert holds("{a} == null || {a} > 1", a=value)


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        ("{a} > 1", {"a": b'"s3cret"'}, "No such overload: the operation is not defined for the given operand types"),
        ("{a} > 1", {}, "No such overload: the operation is not defined for the given operand types"),
        ("!{a}", {"a": None}, "No such overload: the operation is not defined for the given operand types"),
        ("{a}.b == 1", {"a": b"{}"}, "an object has no such member"),
        ("{a}[{b}] == 1", {"a": b"{}", "b": "s3cret"}, "an object has no such member"),
        ("{a}[0] == 1", {"a": b"[]"}, "an array has no such element"),
        ("1 / {a} == 1", {"a": b"0"}, "division by zero"),
        ("1 % {a} == 1", {"a": b"0"}, "division by zero"),
        ("{a} + 1 > 0", {"a": b"9223372036854775807"}, "a number is out of range"),
        ("{a}.startsWith('x')", {"a": b"1"}, "the function `startsWith` does not exist for a value of this type"),
        ("{a}.matches({b})", {"a": "x", "b": "(s3cret"}, "the function `matches` cannot take this value"),
        ("int({a}) == 1", {"a": "s3cret"}, "the function `int` cannot take this value"),
        ("duration({a}) > duration('1s')", {"a": "s3cret"}, "the function `duration` cannot take this value"),
        ("timestamp({a}) > timestamp({a})", {"a": "s3cret"}, "the function `timestamp` cannot take this value"),
    ],
)
def test_what_cannot_be_evaluated_is_a_failure_that_tells_no_value(text: str, values: dict[str, Any], reason: str) -> None:
    assert failure(text, **values) == f"the condition could not be evaluated: {reason}"


def test_what_is_decided_already_is_not_evaluated() -> None:
    assert holds("true || {a} > 1", a="x")
    assert not holds("{a} != null && {a} > 1")


@pytest.mark.parametrize(("value", "kind"), [(b"1", "int"), (b'"true"', "str"), (b"null", "NoneType"), (b"[]", "list"), (b"{}", "dict")])
def test_a_result_that_is_neither_true_nor_false_is_a_failure(value: bytes, kind: str) -> None:
    assert failure("{a}", a=value) == f"the condition must be true or false, not of type {kind}"


def test_values_that_are_too_large_are_a_failure() -> None:
    most = 64 * 1024
    assert holds("{a} != null", a=b'"' + b"x" * (most - 2) + b'"')
    assert failure("{a} != null", a=b'"' + b"x" * (most - 1) + b'"') == "a value in the condition has more than 65536 bytes"


def test_macros_inside_macros_take_small_values_only() -> None:
    text = "{a}.all(i, {a}.exists(j, i == j))"
    most = 2 * 1024
    assert holds(text, a=b"[" + b"1,".ljust(most - 3) + b"1]")
    assert failure(text, a=b"[" + b"1,".ljust(most - 2) + b"1]") == "a value in the condition has more than 2048 bytes"
    assert holds("{a}.all(i, i == 1) && {a}.exists(i, i == 1)", a=b"[" + b"1,".ljust(most) + b"1]")


def test_the_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel", None)
    with pytest.raises(MissingExtraError, match=r"when needs the extra 'cel': pip install 'anabranch\[cel\]'"):
        compiled("true")
    (found,) = problems_of({"steps": {"s": {"upstream": "a", "path": "/", "when": "true"}}})
    assert (found.path, found.message) == ("endpoints[0].steps.s.when", "when needs the extra 'cel': pip install 'anabranch[cel]'")


@pytest.mark.parametrize(
    ("when", "message", "hint"),
    [
        ("", "a condition must not be empty", ""),
        ("x == 1", "unknown name `x`", ""),
        ("{x.n} ==", "not a CEL expression", ""),
        ("{y.n} == 1", "the step `y` refers to itself", ""),
        ("{xx.n} == 1", "unknown step `xx`", "did you mean `x`?"),
        ("{query.q} == 1", "unknown query parameter `q`", "declare it"),
        ("{x.n == 1", "never closed", ""),
        ("{x.gone} == 1", "{x.gone} never has a value", ""),
    ],
)
def test_a_mistake_in_a_condition_is_found_at_its_place(when: str, message: str, hint: str) -> None:
    steps = {"x": {"upstream": "a", "path": "/", "drop": ["gone"]}, "y": {"upstream": "a", "path": "/", "when": when}}
    (found,) = problems_of({"steps": steps})
    assert found.path == "endpoints[0].steps.y.when"
    assert message in found.message
    assert hint in found.hint


@pytest.mark.parametrize("kind", [{"upstream": "a", "path": "/"}, {"compute": "m:f"}])
def test_a_condition_makes_its_step_wait_for_what_it_refers_to(kind: dict[str, Any]) -> None:
    plan = plan_of({"steps": {"x": {"upstream": "a", "path": "/"}, "y": {**kind, "when": "{x.n} == 1"}}})
    assert [step.needs for step in plan.steps] == [(), (0,)]
    frame = plan.new_frame()
    plan.steps[0].read(b'{"n":1}', frame)
    when: Callable[[Frame], bool] | None = plan.steps[1].when
    assert when is not None
    assert when(frame)
    assert not when(plan.new_frame())


def test_a_cycle_through_conditions_is_one() -> None:
    steps = {name: {"upstream": "a", "path": "/", "when": f"{{{other}.n}} == 1"} for name, other in (("x", "y"), ("y", "x"))}
    (found,) = problems_of({"steps": steps})
    assert "x -> y -> x" in found.message


def test_steps_that_may_be_left_out_are_known() -> None:
    plan = plan_of(
        {
            "steps": {
                "x": {"upstream": "a", "path": "/"},
                "y": {"upstream": "a", "path": "/", "when": "{x.n} == 1"},
                "z": {"upstream": "a", "path": "/{y.n}"},
                "far": {"upstream": "a", "path": "/{z.n}"},
                "safe": {"upstream": "a", "path": "/{z.n}", "default": 1},
                "after": {"upstream": "a", "path": "/{safe}"},
                "own": {"upstream": "a", "path": "/", "when": "true", "default": None},
            }
        }
    )
    assert [step.name for step in plan.steps if step.may_be_left_out] == ["y", "z", "far"]
