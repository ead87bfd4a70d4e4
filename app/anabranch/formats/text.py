"""Text as a JSON string."""

from typing import Final

from anabranch.formats.charset import read_text
from anabranch.jsontext.raw import encode

_FROM_BYTES: Final = 512 * 1024


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES


def read(body: bytes, content_type: str) -> bytes:
    """The text exactly as it is, without a byte order mark. Raises InvalidCharset."""
    return encode(read_text(body, content_type))
