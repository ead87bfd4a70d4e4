"""What pydantic says of a value that is not valid, without the value: it may be a secret, and its sentences are logged and shown."""

from collections.abc import Mapping
from typing import Any, Final

_QUOTES: Final = {
    "union_tag_invalid": "Input should have one of the expected tags",
    "uuid_parsing": "Input should be a valid UUID",
}
"""Sentences of ours for the kinds of fault whose own sentences quote the value."""


_OF_USERS: Final = frozenset({"value_error", "assertion_error"})


def sentence_of(fault: Mapping[str, Any], *, trusts_users: bool = True) -> str:
    """The sentence of one of a ValidationError's `errors()`. `trusts_users`: the sentences of a user's own checks are for the reader."""
    kind = fault.get("type", "")
    if kind in _OF_USERS and not trusts_users:
        return "refused by a check of its own"
    return _QUOTES.get(kind, str(fault.get("msg", "is invalid")))
