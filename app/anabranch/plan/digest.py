"""What tells one version of an endpoint from another: a digest of its part of the document."""

from hashlib import sha256
from typing import Final

from anabranch.config import model as config

# What changes nothing about an answer.
_IRRELEVANT: Final = {"summary", "description", "tags", "journal"}
_DIGITS: Final = 16


def endpoint_digest(endpoint: config.Endpoint) -> str:
    """Sixteen hexadecimal digits; the same for the same endpoint in every process, however the document spells it."""
    return sha256(endpoint.model_dump_json(by_alias=True, exclude=_IRRELEVANT).encode()).hexdigest()[:_DIGITS]
