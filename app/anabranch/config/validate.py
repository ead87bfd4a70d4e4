"""Validates data against the models, translates pydantic's errors into our own messages, and keeps the valid parts for further checks.

Must not know the meaning of the document.
"""

import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from anabranch.config.base import Model
from anabranch.config.node import Path
from anabranch.config.problems import Problems, did_you_mean
from anabranch.config.scalar import plain_value
from anabranch.config.substitute import Filled

M = TypeVar("M", bound=BaseModel)

_KINDS: Final = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_LIMITS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_LENGTHS: Final = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
_CHOICE: Final = re.compile(r"'([^']*)'")
_YAML_11_BOOLEANS: Final = frozenset({"yes", "no", "on", "off", "y", "n"})


class _Message(NamedTuple):
    text: str
    hint: str = ""


class Validator:
    """Validates parts of one document. `broken`: paths of the invalid parts that all calls of `check` have found."""

    def __init__(self, filled: Filled, problems: Problems) -> None:
        self._filled = filled
        self._problems = problems
        self.broken: set[Path] = set()

    def check(self, model: type[M], path: Path, data: Any) -> M | None:
        """Validate `data`, the part of the document at `path`. Returns None when there is no valid model.

        An invalid key is left out if the model is valid without it. The mistakes are reported, and `path` and the path of each key that was
        left out are added to `broken`. `data` may be changed: a substituted text is read as a YAML scalar where a string is not accepted.
        """
        if path in self._filled.broken:
            self.broken.add(path)
            return None
        built, errors = self._attempt(model, path, data)
        for (inner, is_key), group in _grouped(errors, data).items():
            self._add(model, path, inner, group, data, is_key=is_key)
        missing = {
            broken[len(path)]
            for broken in self._filled.broken
            if len(broken) > len(path) and broken[: len(path)] == path and _has(data, broken[len(path) :])
        }
        bad = {error["loc"][0] for error in errors if error["loc"]} | missing
        if not errors and not bad:
            return built
        self.broken |= {path, *((*path, part) for part in bad)}
        if not isinstance(data, dict) or any(not error["loc"] for error in errors):
            return None
        return self._attempt(model, path, {key: value for key, value in data.items() if key not in bad})[0]

    def _attempt(self, model: type[M], path: Path, data: Any) -> tuple[M | None, list[ErrorDetails]]:
        errors: list[ErrorDetails] = []
        reread: set[Path] = set()
        while True:
            try:
                return model.model_validate(data, by_alias=True, by_name=False), []
            except ValidationError as error:
                errors = error.errors(include_url=False, include_input=False)
            invalid = {(*path, *_inner_path(error, data)) for error in errors} - reread
            reread |= invalid
            reread_now = [where for where in invalid & self._filled.texts.keys() if self._reread(where, path, data)]
            if not reread_now:
                return None, errors

    def _reread(self, where: Path, path: Path, data: Any) -> bool:
        """Replace the substituted text at `where` by its value as a YAML scalar. Returns False when that is the same string."""
        try:
            value = plain_value(self._filled.texts[where])
        except ValueError:
            return False
        if isinstance(value, str):
            return False
        if where == path:
            return False
        *parents, last = where[len(path) :]
        for part in parents:
            data = data[part]
        data[last] = value
        return True

    def _add(self, model: type[BaseModel], path: Path, inner: Path, errors: list[ErrorDetails], data: Any, *, is_key: bool) -> None:
        """Report the errors at `inner`, a path below `path`."""
        where = (*path, *inner)
        if any(where[: len(unknown)] == unknown for unknown in self._filled.broken | self._filled.guessed):
            return
        # The other members of a union say only that the whole is not of their kind.
        error = next((error for error in errors if error["type"] not in _KINDS), errors[0])
        kind = error["type"]
        value = _value(data, inner)
        if kind == "missing":
            self._problems.add(where[:-1], f"the key `{where[-1]}` is missing", at_key=True)
        elif kind == "extra_forbidden":
            owner = model_at(model, inner[:-1])
            if owner is not None and issubclass(owner, Model) and (sentence := owner.explain_extra(str(where[-1]))) is not None:
                self._problems.add(where, sentence, at_key=True)
                return
            present = _value(data, inner[:-1])
            keys = [] if owner is None else [key for key in keys_of(owner) if not isinstance(present, Mapping) or key not in present]
            hint = did_you_mean(str(where[-1]), keys)
            if not hint and keys:
                hint = f"other keys allowed here: {', '.join(f'`{key}`' for key in keys)}" if len(keys) <= 12 else ""
            self._problems.add(where, f"unknown key `{where[-1]}`", hint=hint, at_key=True)
        elif is_key:
            self._problems.add(where, _message(error, where[-1]).text, at_key=True)
        elif all(other["type"] in _KINDS for other in errors):
            kinds = dict.fromkeys(_KINDS[other["type"]] for other in errors)
            is_null = ", not null" if value is None else ""
            self._problems.add(where, f"must be {', or '.join(kinds)}{is_null}", value=value, hint=_type_hint(kinds, value))
        else:
            is_whole = kind == "value_error" and isinstance(value, dict)
            message = _message(error, "" if self._problems.secrets.touch(where) else value)
            self._problems.add(where, message.text, value=None if is_whole else value, hint=message.hint, at_key=is_whole)


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of `model` as the document writes them, in order."""
    return [field.alias or name for name, field in model.model_fields.items()]


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model of the value at `path` inside `model`; None when that value is not a model."""
    annotation: Any = model
    for part in path:
        inner = _inside_any(annotation, part)
        if inner is None:
            return None
        annotation = inner
    return _model_in(annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for found in _alternatives(annotation):
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
        # Where a model accepts one item in place of a list, the path has no index.
        if get_origin(found) is list and (item := _model_in(get_args(found)[0])) is not None:
            return item
    return None


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [found for member in get_args(annotation) for found in _alternatives(member)]
    return [annotation]


def _inside(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        if part not in fields and issubclass(annotation, Model) and annotation.shorthand is not None:
            return _inside_any(fields[annotation.shorthand], part)
        return fields.get(str(part))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        return arguments[0] if isinstance(part, int) else _inside_any(arguments[0], part)
    return arguments[1] if origin is dict else None


def _inside_any(annotation: Any, part: str | int) -> Any:
    return next((found for candidate in _alternatives(annotation) if (found := _inside(candidate, part)) is not None), None)


def _inner_path(error: ErrorDetails, data: Any) -> Path:
    """The path in `data` that an error is about: pydantic's location without the names of union members and without `[key]`."""
    path: list[str | int] = []
    for index, part in enumerate(error["loc"]):
        if _has(data, (part,)):
            data = data[part]
        elif error["type"] != "missing" or index != len(error["loc"]) - 1 or not isinstance(data, dict):
            continue
        else:
            return (*path, part)  # a missing key
        path.append(part)
    return tuple(path)


def _grouped(errors: list[ErrorDetails], data: Any) -> dict[tuple[Path, bool], list[ErrorDetails]]:
    """The errors by path, and whether they are about the key there. Each member of a union reports its own error."""
    groups: dict[tuple[Path, bool], list[ErrorDetails]] = {}
    for error in errors:
        is_key = len(error["loc"]) > 1 and error["loc"][-1] == "[key]"
        groups.setdefault((_inner_path(error, data), is_key), []).append(error)
    # The other members of a union say only that the whole is not of their kind. What is wrong inside says more.
    return {
        (path, is_key): group
        for (path, is_key), group in groups.items()
        if is_key
        or not all(error["type"] in _KINDS for error in group)
        or not any(len(inner) > len(path) and inner[: len(path)] == path for inner, _ in groups)
    }


def _has(data: Any, path: Path) -> bool:
    """Whether `data` has something at `path`. Parts that are checked separately have been removed from it."""
    for part in path:
        is_there = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int) and part < len(data)
        if not is_there:
            return False
        data = data[part]
    return True


def _value(data: Any, path: Path) -> Any:
    """The value at `path`; None when the key is missing."""
    if not _has(data, path):
        return None
    for part in path:
        data = data[part]
    return data


def _message(error: ErrorDetails, value: Any) -> _Message:
    """The message for an error that is about one value. Its text never quotes the value; the hint may."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return _Message(str(context["error"]))
    if kind == "literal_error":
        choices = _CHOICE.findall(context["expected"])
        if not choices:
            return _Message(f"must be {context['expected']}")
        listed = ", ".join(f"`{choice}`" for choice in choices)
        return _Message(f"must be one of {listed}" if len(choices) > 1 else f"must be {listed}", did_you_mean(str(value), choices))
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return _Message(f"must be {words} {context[key]}")
    if kind in _LENGTHS:
        words, key = _LENGTHS[kind]
        count = context[key]
        return _Message(f"must have {words} {count} {'entry' if count == 1 else 'entries'}")
    if kind in _KINDS:
        return _Message(f"must be {_KINDS[kind]}")
    return _Message("is not valid here")


def _type_hint(kinds: Mapping[str, str] | dict[str, None], value: Any) -> str:
    if "true or false" in kinds and isinstance(value, str) and value.lower() in _YAML_11_BOOLEANS:
        return "yes, no, on and off are strings in YAML 1.2; write true or false"
    if "a string" in kinds and isinstance(value, bool | int | float):
        return "put it in quotes"
    if "a string" in kinds and isinstance(value, dict):
        return "put it in quotes: without them YAML reads braces as a mapping"
    if "a list" in kinds and isinstance(value, str | int):
        return "write it as a list: [...]"
    if "a whole number" in kinds and isinstance(value, str):
        return "write it without quotes" if value.lstrip("-").isdigit() else ""
    return ""
