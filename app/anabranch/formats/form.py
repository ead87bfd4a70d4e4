"""Forms (`a=1&b=2`) as an object: a name that is repeated becomes an array.

**Source:** WHATWG URL Standard section 5.1 (application/x-www-form-urlencoded parsing).
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from anabranch.errors import InvalidFormat
from anabranch.formats.charset import of_content_type, read_text
from anabranch.jsontext.raw import encode

FROM_BYTES: Final = 64 * 1024

_NEVER: Final = re.compile(rb'[\x00-\x20\x7f"<>\\^`{}]')
"""What no form has unencoded (RFC 3986 appendix A has no such characters), but JSON, HTML and text do."""


def read(body: bytes, content_type: str) -> bytes:
    """An object of strings, and of arrays of strings for names that occur more than once. Raises InvalidFormat and InvalidCharset."""
    body = body.strip()
    if (found := _NEVER.search(body)) is not None:
        raise InvalidFormat(f"the body is not a form: byte {found.start() + 1} would be percent-encoded in one", may_be_processed=True)
    charset = f"; charset={label}" if (label := of_content_type(content_type)) else ""
    fields: dict[str, str | list[str]] = {}
    for piece in body.split(b"&"):
        if not piece:
            continue
        name, value = (read_text(unquote_to_bytes(part.replace(b"+", b" ")), charset) for part in (piece.partition(b"=")[::2]))
        earlier = fields.get(name)
        if earlier is None:
            fields[name] = value
        elif isinstance(earlier, list):
            earlier.append(value)
        else:
            fields[name] = [earlier, value]
    return encode(fields)
