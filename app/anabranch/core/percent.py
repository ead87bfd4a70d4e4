"""Decodes percent-encoded path segments and query strings."""

from typing import Final
from urllib.parse import unquote_to_bytes

_PLUS: Final = str.maketrans("+", " ")


def decode(text: str) -> str | None:
    """Decode one path segment, or one name or value of a query in which `+` has been replaced by a space.

    `text`: the raw bytes decoded as Latin-1. A `%` that is not followed by two hexadecimal digits is kept as it is (URL Standard,
    section 1.3). Returns None when the bytes are not UTF-8.
    """
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        return None


def parse_query(raw: bytes) -> dict[str, list[str | None]]:
    """The values of each name in a query string, in order. A value that is not UTF-8 is None; a name that is not UTF-8 is dropped.

    **Source:** URL Standard, section 5.1 (application/x-www-form-urlencoded).
    """
    query: dict[str, list[str | None]] = {}
    text = raw.decode("latin-1")
    is_plain = "%" not in text and "+" not in text and text.isascii()
    name: str | None
    value: str | None
    for pair in text.split("&"):
        if not pair:
            continue
        name, _, value = pair.partition("=")
        if not is_plain:
            name = decode(name.translate(_PLUS))
            value = decode(value.translate(_PLUS))
            if name is None:
                continue
        values = query.get(name)
        if values is None:
            query[name] = [value]
        else:
            values.append(value)
    return query
