"""The document's models as data: each key with its type, default and meaning, in the terms and units of the document.

The reference and the JSON Schema are both generated from this. Must not know either.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from anabranch.config.base import HeaderValue, Scalar
from anabranch.config.docstrings import meanings
from anabranch.config.model import STEPS, URL, Document, HeaderName, HedgeDelay, Name, Step, URLWithQuery
from anabranch.config.units import (
    Duration,
    DurationOrZero,
    PerPeriod,
    Ratio,
    Size,
    WholeSeconds,
    format_duration,
    format_ratio,
    format_size,
)

_WORDS: Final[tuple[tuple[Any, str], ...]] = (
    (Duration, "duration"),
    (DurationOrZero, "duration, or `0s`"),
    (WholeSeconds, "duration in whole seconds, or `0s`"),
    (Size, "size"),
    (Ratio, "ratio"),
    (PerPeriod, "number and time, such as `100/1m`"),
    (HedgeDelay, "duration or quantile"),
    (URL, "URL"),
    (URLWithQuery, "URL"),
    (Name, "name"),
    (HeaderName, "header name"),
    (HeaderValue, "string"),
    (Scalar, "string, number or boolean"),
    (str, "string"),
    (int, "whole number"),
    (bool, "true or false"),
    (Any, "any JSON"),
)
_PLURALS: Final = {"string": "strings", "string, number or boolean": "these", "URL": "URLs", "header name": "header names"}
_UNITS: Final[tuple[tuple[Any, Callable[[Any], str]], ...]] = (
    (Duration, format_duration),
    (DurationOrZero, format_duration),
    (WholeSeconds, format_duration),
    (Size, format_size),
    (Ratio, format_ratio),
)


_KINDS: Final[Mapping[type[BaseModel], Mapping[str, type[BaseModel]]]] = {Step: STEPS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a model. `kind`: its type in the terms of the reference. `default`: as the document would write it (data, not text).

    `is_required`: there is no default. `has_default`: the default is worth showing: not null, and not a section of its own.
    `model`: the section that is the value, or the item of a list or mapping; None when there is no section.
    """

    name: str
    kind: str
    meaning: str
    default: Any
    is_required: bool
    has_default: bool
    model: type[BaseModel] | None


def keys(model: type[BaseModel]) -> list[Key]:
    """The keys of `model`, in the order of its fields."""
    hints = get_type_hints(model, include_extras=True)
    texts = meanings(model)
    return [_key(field, hints[name], name, texts.get(name, "")) for name, field in model.model_fields.items()]


def sections() -> list[type[BaseModel]]:
    """The models of a whole document, each once, breadth first from `Document`; the kinds of a model right after it."""
    found: list[type[BaseModel]] = [Document]
    for model in found:
        for inner in dict.fromkeys(key.model for key in keys(model)):
            if inner is not None and inner not in found:
                found += [inner, *kinds(inner).values()]
    return found


def kinds(model: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    """The kinds of a model by the key that says which one a value is; empty when it has none. A value is always of one of the kinds."""
    return _KINDS.get(model, {})


def common(model: type[BaseModel]) -> type[BaseModel] | None:
    """The model whose keys all kinds have, when this is one of them."""
    return next((parent for parent, models in _KINDS.items() if model in models.values()), None)


def _key(field: FieldInfo, hint: Any, name: str, meaning: str) -> Key:
    default = None if field.is_required() else _written(hint, field.get_default(call_default_factory=True))
    return Key(
        name=field.alias or name,
        kind=_kind(hint) + _limits(field),
        meaning=" ".join(meaning.split()),
        default=default,
        is_required=field.is_required(),
        has_default=default is not None and not isinstance(default, BaseModel),
        model=_model(hint),
    )


def _is(hint: Any, other: Any) -> bool:
    """Whether two annotations are equal. Two aliases with equal metadata count as equal; they have the same meaning."""
    return bool(hint == other)


def _written(hint: Any, value: Any) -> Any:
    """`value` in the units of the document."""
    for candidate in _members(hint):
        for unit, text in _UNITS:
            if value is not None and _is(candidate, unit):
                return text(value)
    return value


def _kind(hint: Any) -> str:
    members = _members(hint)
    if len(members) > 1:
        return " or ".join(_kind(member) for member in members)
    hint = members[0]
    for known, words in _WORDS:
        if _is(hint, known):
            return words
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        choices = [f"`{choice}`" for choice in arguments]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if get_origin(hint) is list:
        item = _kind(arguments[0])
        return f"list of {_PLURALS.get(item, item)}"
    if get_origin(hint) is dict:
        value = _kind(arguments[1])
        return "mapping" if value == "any JSON" else f"mapping of {_kind(arguments[0])} to {value}"
    return f"[{hint.__name__}](#{hint.__name__.lower()})"


def _limits(field: FieldInfo) -> str:
    """The bounds of a number, in words."""
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at least {low}" if low is not None else ""


def _members(hint: Any) -> list[Any]:
    """The alternatives of a union without null, which means that the key is left out. Named unions such as HedgeDelay stay whole."""
    if get_origin(hint) in (Union, UnionType):
        return [member for member in get_args(hint) if member is not NoneType]
    return [hint]


def _model(hint: Any) -> type[BaseModel] | None:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    return next((found for inner in get_args(hint) if (found := _model(inner)) is not None), None)
