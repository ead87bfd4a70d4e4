"""The base class of the gateway document's models, and validated types for single values such as names, URLs and header fields."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from anabranch.core.exchange import Address
from anabranch.core.forwarding import is_host
from anabranch.jsontext.path import parse_path, parse_paths

# Any JSON value: a template, a default, a schema.
JSON = Any
# A value that is neither an object nor an array.
Scalar = Annotated[str | int | float | bool | None, "a single value"]

_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_-]*$"
_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
# RFC 3986 sections 3.2.2 and 3.2.3.
_HOST: Final = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?)(:[0-9]{1,5})?$"
ALL: Final = "*"
"""In a list of what is forwarded: everything that may be."""
_HEADER_VALUE: Final = r"^[^\x00-\x08\x0a-\x1f\x7f]*$"

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


def _header_of_list(value: str) -> str:
    if "*" in value:
        raise ValueError("header fields are listed one by one: there are no patterns, and `*` stands for nothing")
    return _header_name(value)


def _forwarded_header(value: str) -> str:
    if "*" in value and value != ALL:
        raise ValueError("header fields are listed one by one: there are no patterns; `*` alone stands for all that may be forwarded")
    return value if value == ALL else _header_name(value)


def _header_value(value: str) -> str:
    if not re.fullmatch(_HEADER_VALUE, value):
        raise ValueError("a header value must not contain line breaks or control characters")
    return value


def _host(value: str) -> str:
    if not re.fullmatch(_HOST, value) or not is_host(value.encode("ascii", "replace")):
        raise ValueError("must be a host name or an address, with or without a port, such as api.example:8443, or `client`")
    return value


def _json_path(value: str) -> str:
    parse_path(value)
    return value


def _json_paths(value: str) -> str:
    parse_paths(value)
    return value


def _json_name(value: str) -> str:
    if len(parse_path(value)) > 1:
        raise ValueError("a new name must be a name, not a path: a member cannot be moved; a name with a dot is written in double quotes")
    return value


def _url(value: str) -> str:
    Address.parse(value)
    return value


def _url_with_query(value: str) -> str:
    Address.parse_target(value)
    return value


Name = Annotated[str, AfterValidator(checked_name), WithJsonSchema({"type": "string", "pattern": _NAME, "maxLength": 64})]
HeaderName = Annotated[str, AfterValidator(_header_name), WithJsonSchema({"type": "string", "pattern": _HEADER_NAME, "maxLength": 128})]
HeaderOfList = Annotated[
    str, AfterValidator(_header_of_list), WithJsonSchema({"type": "string", "pattern": _HEADER_NAME, "maxLength": 128})
]
"""A header name in a list of fields that are sought in messages, where an operator may expect patterns."""
HeaderValue = Annotated[str, AfterValidator(_header_value)]
ForwardedHeader = Annotated[
    str,
    AfterValidator(_forwarded_header),
    WithJsonSchema({"anyOf": [{"const": ALL}, {"type": "string", "pattern": _HEADER_NAME, "maxLength": 128}]}),
]
"""The name of a header field to forward; `*` for all that may be forwarded."""
Host = Annotated[str, AfterValidator(_host), WithJsonSchema({"type": "string", "examples": ["api.example", "client"]})]
"""The value of a Host header (RFC 9110 section 7.2); `client`: that of the client's request."""
JSONPath = Annotated[str, AfterValidator(_json_path)]
"""A path into JSON: see `anabranch.jsontext.path`."""
JSONPaths = Annotated[str, AfterValidator(_json_paths)]
"""The same, in which `*` stands for every element of an array."""
JSONName = Annotated[str, AfterValidator(_json_name)]
"""A path of one name."""
URL = Annotated[
    str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": "^https?://", "examples": ["http://127.0.0.1:9101"]})
]
URLWithQuery = Annotated[str, AfterValidator(_url_with_query), WithJsonSchema({"type": "string", "pattern": "^https?://"})]


class Model(BaseModel):
    """A section. Its validator is built at its first use: a validator of each section, beside that of the whole document, would cost every start a
    quarter of a second. The meaning of its keys is in their docstrings: see `config.docstrings`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, validate_by_name=True, validate_by_alias=True, strict=True)

    shorthand: ClassVar[str | None] = None
    """The key whose value may stand in place of the whole mapping."""

    @classmethod
    def explain_extra(cls, key: str) -> str | None:  # noqa: ARG003 - for those who override it
        """What is wrong with `key`, which is not one of this model's; None when there is nothing special to say about it."""
        return None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show only the names of the keys that are set: values may contain secrets, and reprs end up in logs and tracebacks."""
        return [(None, name) for name in type(self).model_fields if name in self.model_fields_set]
