"""What an HTTP status demands of a response, and which statuses a merged response can have.

**Source:** RFC 9110 section 15.
"""

from typing import Final

BODYLESS: Final = frozenset({204, 205, 304})
"""Statuses of responses without a body (sections 15.3.5, 15.3.6 and 15.4.5)."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""Statuses that send the client to `Location` (section 15.4)."""

_PARTS: Final = {
    205: "such a response has no body (RFC 9110 section 15.3.6); 204 says the same to every client but an old browser",
    206: "it answers a request for a range, and a merged response has no ranges (RFC 9110 section 15.3.7)",
    226: "it says that the body is a difference to an older one (RFC 3229)",
}
_NEVER: Final = {
    305: "it is deprecated (RFC 9110 section 15.4.6)",
    306: "it is unused (RFC 9110 section 15.4.7)",
    407: "it is about a proxy between client and server (RFC 9110 section 15.5.8)",
    426: "it needs an `Upgrade` field, which belongs to one connection (RFC 9110 section 15.5.22)",
}
_FIXED: Final = {
    **_PARTS,
    **_NEVER,
    304: "it answers a conditional request, and says that nothing has changed (RFC 9110 section 15.4.5)",
}


def fixed_fault(status: int) -> str | None:
    """Why no response can always have this status; None when one can."""
    if not 200 <= status <= 599:
        return "the status of a response is between 200 and 599"
    return None if (reason := _FIXED.get(status)) is None else f"{status} is not possible: {reason}"


def passed_on(status: int) -> int | None:
    """The status of a response that takes `status` from somewhere else; None when there is none.

    200 for a success that speaks of a body which the merged response does not have: a range (206), a difference (226), a form to reset (205).
    """
    if status in _PARTS:
        return 200
    return status if 200 <= status <= 599 and status not in _NEVER else None
