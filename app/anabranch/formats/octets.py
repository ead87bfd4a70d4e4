"""Bytes of any kind as a JSON string in base64 (RFC 4648 section 4)."""

from base64 import b64encode
from typing import Final

_FROM_BYTES: Final = 1024 * 1024


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES


def read(body: bytes, content_type: str) -> bytes:
    return b'"' + b64encode(body) + b'"'
