"""Origins and methods of cross-origin requests, as browsers send them. Anything else is refused: it would match no request, and say nothing.

**Source:** the Fetch standard, sections 2.2.1 (methods) and 3.2 (CORS protocol); RFC 6454 section 6.2 (serialization of origins).
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[^\]/]*\]|[^:/?#\[\]]*)(?::([0-9]*))?(.*)", re.DOTALL)
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_METHOD: Final = re.compile(r"[A-Z]+(-[A-Z]+)*|\*")
_FORBIDDEN_METHODS: Final = ("CONNECT", "TRACE", "TRACK")


def checked_origin(value: str) -> str:
    """`value` if a browser can send it as an origin, or it is a pattern for those. Raises ValueError with what to write instead."""
    if value in ("*", "null"):
        return value
    found = _ORIGIN.fullmatch(value)
    if found is None:
        raise ValueError("an origin begins with its scheme, such as https://app.example")
    scheme, host, port, rest = found.groups()
    if not host:
        raise ValueError("an origin needs a host, such as https://app.example")
    if "@" in host:
        raise ValueError("an origin has no user: write only its scheme, its host, and its port unless that is the usual one")
    if rest:
        raise ValueError(f"an origin ends with its host or port; browsers send no path: write {value.removesuffix(rest)}")
    if not value.isascii():
        raise ValueError("browsers send a host in ASCII: write it as it stands in certificates, beginning with xn--")
    if value != value.lower():
        raise ValueError(f"browsers send an origin in lower case: write {value.lower()}")
    if port is not None and (not port or port != str(int(port)) or int(port) > 65535):
        raise ValueError("the port of an origin must be a number from 0 to 65535")
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        raise ValueError(f"browsers leave out the usual port: write {value.removesuffix(':' + port)}")
    _check_host(host)
    return value


def _check_host(host: str) -> None:
    if host.startswith("["):
        try:
            canonical = f"[{IPv6Address(host[1:-1])}]"
        except AddressValueError:
            raise ValueError("the host of the origin is not a valid IPv6 address") from None
        if host != canonical:
            raise ValueError(f"browsers send the shortest form of an IPv6 address: write {canonical}")
    elif "*" in host.removeprefix("*."):
        raise ValueError("`*` can stand only for the beginning of a host, such as https://*.app.example")
    elif _HOST.fullmatch(host) is None:
        raise ValueError("the host of the origin is not a valid host name")


def checked_method(value: str) -> str:
    """`value` if a page can use such a method. Raises ValueError."""
    if _METHOD.fullmatch(value) is None:
        raise ValueError("a method is written in capital letters, such as GET")
    if value in _FORBIDDEN_METHODS:
        raise ValueError(f"browsers let no page use {value}")
    return value
