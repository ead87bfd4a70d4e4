"""Forms (`a=1&b=2`) as an object: a name that is repeated becomes an array.

**Source:** WHATWG URL Standard section 5.1 (application/x-www-form-urlencoded parsing).
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from anabranch.errors import InvalidFormat
from anabranch.formats.charset import codec_of_content_type, decode
from anabranch.jsontext.raw import encode

_FROM_BYTES: Final = 64 * 1024
_MOST_FIELDS: Final = 2000

_NEVER: Final = re.compile(rb'[\x00-\x20\x7f"<>\\^`{}]')
"""What no form has unencoded (RFC 3986 appendix A has no such characters), but JSON, HTML and text do."""


def is_large(body: bytes) -> bool:
    return len(body) >= _FROM_BYTES or body.count(b"&") > _MOST_FIELDS


def read(body: bytes, content_type: str) -> bytes:
    """An object of strings, and of arrays of strings for names that occur more than once. Raises InvalidFormat and InvalidCharset."""
    body = body.strip()
    if (found := _NEVER.search(body)) is not None:
        raise InvalidFormat(f"the body is not a form: byte {found.start() + 1} would be percent-encoded in one", may_be_processed=True)
    codec = codec_of_content_type(content_type)
    fields: dict[str, str | list[str]] = {}
    for piece in body.split(b"&"):
        if not piece:
            continue
        raw_name, _, raw_value = piece.partition(b"=")
        name = decode(unquote_to_bytes(raw_name.replace(b"+", b" ")), codec)
        value = decode(unquote_to_bytes(raw_value.replace(b"+", b" ")), codec)
        earlier = fields.get(name)
        if earlier is None:
            fields[name] = value
        elif isinstance(earlier, list):
            earlier.append(value)
        else:
            fields[name] = [earlier, value]
    return encode(fields)
