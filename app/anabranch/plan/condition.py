"""Conditions: expressions in CEL, the language of Kubernetes and Envoy policies, with references in braces.

`{flight.cancelled} == false && {query.full}` is compiled once; a request evaluates it in about 3 us on the values that it refers to. A reference
without a value is null. `{x} matches "re"` may be written for `{x}.matches("re")`. The regular expressions are those of Rust's crate `regex`: they take a time that is
linear in the text, whatever the expression.

**Source:** the Common Expression Language specification, https://cel.dev. The evaluator is the library `common-expression-language`; nothing
else of this program knows that.
"""

import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Final

import msgspec

from anabranch.errors import ConditionFailed, MissingExtraError
from anabranch.jsontext.frame import MISSING, Frame
from anabranch.jsontext.values import load
from anabranch.plan.reference import Reference, Template

if TYPE_CHECKING:
    from cel import Program

Condition = Callable[[Frame], bool]
"""Whether the condition holds for a request. Raises ConditionFailed."""

_LIBRARY: Final = "cel.cel"
_MOST_BYTES: Final = (64 * 1024, 64 * 1024, 2 * 1024)
"""Of each value of a condition as JSON, by how deeply its macros are nested. Larger ones would be converted on the event loop for every request,
and a macro inside another one may take the square of their size."""
_FUNCTIONS: Final = frozenset(
    {
        "size", "contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one", "map", "filter", "int", "uint", "double",
        "string", "bool", "bytes", "type", "dyn", "timestamp", "duration", "min", "max", "getFullYear", "getMonth", "getDate", "getDayOfMonth",
        "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
    }
)  # fmt: skip

_MATCHES: Final = "matches"
_MOST_REMEMBERED: Final = 1024
_MOST_REMEMBERED_BYTES: Final = 512

_TYPES: Final = frozenset({"int", "uint", "double", "string", "bool", "bytes", "list", "map", "null_type", "type"})
_MACRO: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
"""A macro such as `exists`, with the name that it gives to each element."""
_OUTSIDE_TEXT: Final = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""")

_INFIX: Final = re.compile(r"\s+matches\s+(r?)$")
_EXPRESSION: Final = re.compile(r"""\.\s*matches\s*\(\s*(r?(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))\s*\)""")
"""The call of `matches` with a text that is known when the document is loaded."""

_FAULTS: Final[dict[type[Exception], str]] = {
    KeyError: "an object has no such member",
    IndexError: "an array has no such element",
    ZeroDivisionError: "division by zero",
    OverflowError: "a number is out of range",
}
_NO_FUNCTION: Final = re.compile(r"Undefined variable or function: '(\w+)'")
_BAD_ARGUMENT: Final = re.compile(r"Function '(\w+)' error")


_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")


class ConditionError(ValueError):
    """A text is not a condition. The message is a sentence for the operator."""


def compile_condition(text: str, template: Template, slot_of: Callable[[Reference], int]) -> Condition:
    """Compile the condition `text`, which parses to `template`. Raises ConditionError, and MissingExtraError without the library."""
    cel = _library()
    source, slots = _with_variables(template, slot_of)
    source = _with_calls(source)
    if not source.strip():
        raise ConditionError("a condition must not be empty")
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise ConditionError(f"not a CEL expression: {_reason(str(error))}") from None
    _check_names(source, program, set(slots))
    for literal in _EXPRESSION.findall(source):
        try:
            cel.compile(f'"".matches({literal})').execute({})
        except RuntimeError:
            raise ConditionError("the text behind `matches` is not a regular expression (of RE2, without look-around)") from None
    depth = _depth_of_macros(source)
    if depth >= len(_MOST_BYTES):
        raise ConditionError("a macro such as `exists` can stand inside another one, but not deeper: it would take too long")
    condition = _evaluator(text, program, slots, _MOST_BYTES[depth])
    return _remembering(condition, tuple(slots.values())) if _MATCHES in program.functions() else condition


def _library() -> Any:
    """The evaluator, the module `cel.cel`, without its package: that imports its own command line, prompt and highlighter, which takes longer than all
    other imports of a document. Raises MissingExtraError."""
    package = find_spec("cel")
    if package is None:
        raise MissingExtraError("when", "cel")
    if (loaded := sys.modules.get(_LIBRARY)) is not None:
        return loaded
    spec = PathFinder.find_spec(_LIBRARY, package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    library = sys.modules[_LIBRARY] = module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


def _with_variables(template: Template, slot_of: Callable[[Reference], int]) -> tuple[str, dict[str, int]]:
    """The expression with a variable for each reference, and the slot of each variable. A variable is as long as its reference where that is
    possible, so that the evaluator's messages name the right columns."""
    parts: list[str] = []
    slots: dict[str, int] = {}
    quote = ""
    prefix = "v"
    while any(re.search(rf"\b{prefix}\d", part) for part in template if isinstance(part, str)):
        prefix += "v"  # a name that the author wrote must not become a variable
    for part in template:
        if isinstance(part, str):
            quote = _open_quote(part, quote)
            parts.append(part)
        elif quote:
            raise ConditionError(f"{part} stands inside quotes, where CEL reads it as text: write it without them")
        else:
            slot = slot_of(part)
            name = f"{prefix}{slot}"
            slots[name] = slot
            parts.append(name.ljust(len(str(part))))
    return "".join(parts), slots


def _with_calls(source: str) -> str:
    """The expression with `x matches "re"` as `x.matches("re")`, which is the only form that CEL has."""
    parts = _OUTSIDE_TEXT.split(source)
    for index in range(1, len(parts), 2):
        found = _INFIX.search(parts[index - 1])
        if found is not None and parts[index - 1][: found.start()].strip():
            parts[index - 1] = f"{parts[index - 1][: found.start()]}.matches({found[1]}"
            parts[index] += ")"
    return "".join(parts)


def _open_quote(text: str, quote: str) -> str:
    """The quotation mark of the string that is open at the end of `text`; "" when none is. `quote`: the one that is open at its beginning."""
    is_escaped = False
    for char in text:
        if is_escaped:
            is_escaped = False
        elif char == "\\" and quote:
            is_escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
    return quote


def _check_names(source: str, program: "Program", variables: set[str]) -> None:
    unknown = sorted(set(program.variables()) - variables - _TYPES - set(_MACRO.findall(source)))
    if unknown:
        raise ConditionError(f"unknown name `{unknown[0]}`: a reference is written in braces, text in quotes")
    unknown = sorted(name for name in program.functions() if name.isidentifier() and name not in _FUNCTIONS)
    if unknown:
        raise ConditionError(f"unknown function `{unknown[0]}`")


def _depth_of_macros(source: str) -> int:
    """How deeply macros stand inside each other; 0 without any."""
    bare = "".join("" if index % 2 else part for index, part in enumerate(_OUTSIDE_TEXT.split(source)))
    starts = {found.start() + found[0].index("(") for found in _MACRO.finditer(bare)}
    is_macro: list[bool] = []
    deepest = 0
    for position, char in enumerate(bare):
        if char == "(":
            is_macro.append(position in starts)
            deepest = max(deepest, sum(is_macro))
        elif char == ")" and is_macro:
            is_macro.pop()
    return deepest


def _evaluator(text: str, program: "Program", slots: dict[str, int], most_bytes: int) -> Condition:
    execute = program.execute
    names = tuple(slots.items())

    def holds(frame: Frame) -> bool:
        try:
            found = execute({name: _value(frame[slot], most_bytes) for name, slot in names})
        except _TooLarge:
            raise ConditionFailed(f"a value in the condition has more than {most_bytes} bytes") from None
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise ConditionFailed(f"the condition could not be evaluated: {_fault(error)}") from None
        if found is not True and found is not False:
            raise ConditionFailed(f"the condition must be true or false, not of type {type(found).__name__}")
        return found

    holds.__doc__ = text
    return holds


def _remembering(condition: Condition, slots: tuple[int, ...]) -> Condition:
    """The same condition, which remembers for which values it holds: the evaluator compiles a regular expression each time, and clients send the same few values again and
    again. Bounded, whatever they send."""
    known: dict[tuple[Any, ...], bool] = {}

    def holds(frame: Frame) -> bool:
        values = tuple([frame[slot] for slot in slots])
        size = 0
        for value in values:
            if type(value) is str or type(value) is bytes:
                size += len(value)
            elif value is not MISSING:
                return condition(frame)
        if size > _MOST_REMEMBERED_BYTES:
            return condition(frame)
        found = known.get(values)
        if found is None:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            found = known[values] = condition(frame)
        return found

    holds.__doc__ = condition.__doc__
    return holds


class _TooLarge(Exception):
    """A value is too large for a condition."""


def _value(value: Any, most_bytes: int) -> Any:
    if value is MISSING:
        return None
    if type(value) is list:
        return [_value(item, most_bytes) for item in value]
    if type(value) is not bytes:
        return value
    if len(value) > most_bytes:
        raise _TooLarge
    try:
        found = load(value)
    except msgspec.DecodeError:
        raise OverflowError from None
    if _LONG_NUMBER.search(value) is not None:
        _refuse_large(found)
    return found


def _refuse_large(value: Any) -> None:
    """Raise OverflowError for an integer beyond 64 bits, which the evaluator would round."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _refuse_large(item)
    elif type(value) is int and not -(2**63) <= value < 2**64:
        raise OverflowError


def _reason(message: str) -> str:
    """The first mistake that the evaluator found in an expression, with line and column."""
    _, _, rest = message.partition("ERROR: <input>:")
    return "at " + rest.split("\n", 1)[0].strip() if rest else message.split("\n", 1)[0].rstrip(".")


def _fault(error: Exception) -> str:
    """Why an evaluation failed. Names operations and types, never values: the evaluator's own sentences may quote these, and a client may
    see this one."""
    for kind, sentence in _FAULTS.items():
        if isinstance(error, kind):
            return sentence
    message = str(error)
    if isinstance(error, TypeError):
        return message.split(". ", 1)[0].rstrip(".")
    if (found := _NO_FUNCTION.match(message)) is not None:
        return f"the function `{found[1]}` does not exist for a value of this type"
    if (found := _BAD_ARGUMENT.match(message)) is not None:
        return f"the function `{found[1]}` cannot take this value"
    return "a value cannot be used"
