"""Where a request has its token."""

from collections.abc import Callable
from typing import Final

from anabranch.config.auth.bearer import AUTHORIZATION
from anabranch.core.cookies import first_cookie

CHALLENGE: Final = 'Bearer realm="gateway"'
"""**Source:** RFC 6750 section 3."""
Find = Callable[[dict[bytes, bytes]], bytes | None]
"""The token in the header fields of a request; None when there is none."""

_SCHEME: Final = b"bearer"


def finder(place: tuple[str, str]) -> Find:
    """What finds the token at a `Bearer.place`: in a cookie, in a header field, or in `Authorization` (RFC 6750 section 2.1). Never in a URL, which is logged everywhere."""
    where, name = place
    if where == "cookie":
        return _in_cookie(name.encode())
    return _in_authorization if name == AUTHORIZATION else _in_header(name.encode())


def _in_authorization(headers: dict[bytes, bytes]) -> bytes | None:
    value = headers.get(b"authorization")
    if value is None or value[:6].lower() != _SCHEME or value[6:7] not in (b" ", b""):
        return None
    return value[6:].strip(b" ")


def _in_header(name: bytes) -> Find:
    def find(headers: dict[bytes, bytes]) -> bytes | None:
        value = headers.get(name)
        if value is None:
            return None
        return value[7:].strip(b" ") if value[:7].lower() == b"bearer " else value

    return find


def _in_cookie(name: bytes) -> Find:
    return lambda headers: first_cookie(headers.get(b"cookie", b""), name)
