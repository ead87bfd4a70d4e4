"""The base class of the gateway document's models, and validated types for single values such as names, URLs and header fields."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from anabranch.core.exchange import Address

# Any JSON value: a template, a default, a schema.
JSON = Any

_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_-]*$"
_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_HEADER_VALUE: Final = r"^[\t\x20-\x7e\x80-\xff]*$"

# The error messages of these validators never quote the value: it may contain a secret.


def checked_name(value: str) -> str:
    """Return `value` if it is a valid name for an upstream, a step or a compute backend. Raises ValueError."""
    if len(value) > 64 or not re.fullmatch(_NAME, value):
        raise ValueError("a name must begin with a letter or `_` and have at most 64 characters: letters, digits, `_` and `-`")
    return value


def _header_name(value: str) -> str:
    if len(value) > 128 or not re.fullmatch(_HEADER_NAME, value):
        raise ValueError("a header name must have at most 128 characters: letters, digits and symbols such as `-`, but no spaces")
    return value


def _header_value(value: str) -> str:
    if not re.fullmatch(_HEADER_VALUE, value):
        raise ValueError("a header value must not contain line breaks, control characters or characters outside ISO 8859-1")
    return value


def _url(value: str) -> str:
    Address.parse(value)
    return value


def _url_with_query(value: str) -> str:
    Address.parse_target(value)
    return value


Name = Annotated[str, AfterValidator(checked_name), WithJsonSchema({"type": "string", "pattern": _NAME, "maxLength": 64})]
HeaderName = Annotated[str, AfterValidator(_header_name), WithJsonSchema({"type": "string", "pattern": _HEADER_NAME, "maxLength": 128})]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
URL = Annotated[
    str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": "^https?://", "examples": ["http://127.0.0.1:9101"]})
]
URLWithQuery = Annotated[str, AfterValidator(_url_with_query), WithJsonSchema({"type": "string", "pattern": "^https?://"})]


class Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True, strict=True
    )

    @classmethod
    def explain_extra(cls, key: str) -> str | None:  # noqa: ARG003 - for those who override it
        """What is wrong with `key`, which is not one of this model's; None when there is nothing special to say about it."""
        return None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show only the names of the keys that are set: values may contain secrets, and reprs end up in logs and tracebacks."""
        return [(None, name) for name in type(self).model_fields if name in self.model_fields_set]
