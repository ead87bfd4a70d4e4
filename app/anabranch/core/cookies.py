"""Reads the Cookie field of a request."""

import re
from typing import Final

_WHITESPACE: Final = " \t"
_COOKIE_VALUE: Final = re.compile(r'("?)([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*)\1')


def parse_cookies(field: bytes) -> dict[str, list[str | None]]:
    """The values of each cookie, in order, as they were sent, without quotes around them. None for a value with other characters than the
    grammar allows. What is no pair is dropped: one broken cookie of another application must not make the others unreadable.

    **Source:** RFC 6265 sections 4.1.1 (grammar) and 4.2.1 (Cookie).
    """
    cookies: dict[str, list[str | None]] = {}
    for pair in field.decode("latin-1").split(";"):
        name, equals, value = pair.strip(_WHITESPACE).partition("=")
        if equals:
            found = _COOKIE_VALUE.fullmatch(value)
            cookies.setdefault(name, []).append(None if found is None else found[2])
    return cookies


def first_cookie(field: bytes, name: bytes) -> bytes | None:
    """The first cookie of this name, without quotes around it; None without one. Browsers send the cookie of the longest path first (RFC 6265 section 5.4)."""
    for pair in field.split(b";"):
        key, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and key == name:
            return value.strip(b'"')
    return None
