"""Identifies the version of an endpoint by a digest of its part of the document."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from anabranch.config import model as config

# Keys that do not affect the body of the response.
_IRRELEVANT: Final[Mapping[str, bool | set[str]]] = {
    **dict.fromkeys(("summary", "description", "tags", "journal", "compression"), True),
    "response": {"cache"},
}
_DIGITS: Final = 16


def endpoint_digest(endpoint: config.Endpoint) -> str:
    """Sixteen hexadecimal digits: the same in every process, and independent of how the YAML is written."""
    return sha256(endpoint.model_dump_json(by_alias=True, exclude=_IRRELEVANT).encode()).hexdigest()[:_DIGITS]
