"""Rules for header fields that somebody else than the gateway sets: an operator, a user's function."""

from typing import Final

OURS: Final = frozenset(
    {
        "connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade", "expect",
    }
)  # fmt: skip
"""Hop-by-hop fields (RFC 9110 section 7.6.1) and fields that frame a message."""

OURS_IN_RESPONSES: Final = frozenset(
    {
        "age",
        "cache-status",
        "content-encoding",
        "content-range",
        "date",
        "gateway-complete",
        "proxy-status",
        "server-timing",
        "x-request-id",
    }
)
"""Fields of responses that only the gateway can set right."""

_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def name_fault(name: str) -> str | None:
    """Why a header of this name cannot be set or forwarded; None when it can (RFC 9110 section 5.1)."""
    if not name or not _TOKEN.issuperset(name):
        return f"a header name can have only letters, digits and symbols such as `-`, not {name!r}"
    return f"the header {name.lower()} belongs to one connection and is set by the gateway itself" if name.lower() in OURS else None


def value_fault(value: str) -> str | None:
    """Why this text cannot be a header value; None when it can (RFC 9110 section 5.5)."""
    if any((ord(char) < 0x20 and char != "\t") or ord(char) == 0x7F for char in value):
        return "a header value must not contain control characters or line breaks"
    return None
