"""Refuses a request whose client does not accept what its endpoint answers with, before anything is called for it.

An endpoint has one media type, so there is nothing to choose. Problem documents are sent whatever the client accepts: RFC 9110 section 15.5.7
allows that, and a client that reads only JSON is better served by a problem than by an empty response.
"""

from collections.abc import Callable
from typing import Final

from anabranch.core.negotiation import MOST_BYTES, MediaType, accepts
from anabranch.edge import problems
from anabranch.engine.request import ClientRequest
from anabranch.errors import NotAcceptable
from anabranch.plan.model import ResponsePlan

CheckAccept = Callable[[ClientRequest], None]
"""Raises NotAcceptable. Costs one look-up in a dict for a request without `Accept`, and two for a field that came before."""

_MOST_KNOWN: Final = 256
_MOST_KNOWN_BYTES: Final = 512
"""Bounds of the fields that are remembered: clients send the same few."""


def check_of(response: ResponsePlan) -> CheckAccept:
    """What checks the requests of an endpoint."""
    return _check_nothing if response.media_type is None else _Check(response.media_type)


def _check_nothing(request: ClientRequest) -> None:
    """For a response without a body."""


class _Check:
    __slots__ = ("_available", "_known", "_media_type")

    def __init__(self, media_type: str) -> None:
        self._available = [media_type, problems.MEDIA_TYPE.decode()]
        self._media_type = MediaType.parse(media_type)
        self._known: dict[bytes, bool] = {}

    def __call__(self, request: ClientRequest) -> None:
        field = request.headers.get(b"accept")
        if field is None or request.wants_notes:
            return
        is_accepted = self._known.get(field)
        if is_accepted is None:
            is_accepted = self._judge(field)
        if not is_accepted:
            raise NotAcceptable(
                f"the response is {self._available[0]}, which the `accept` field of the request does not allow",
                headers={"vary": "Accept"},
                members={"available": self._available},
            )

    def _judge(self, field: bytes) -> bool:
        if len(field) > MOST_BYTES:
            return True  # no client needs that; the field counts as absent
        is_accepted = accepts(field.decode("latin-1"), self._media_type)
        if len(field) <= _MOST_KNOWN_BYTES:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[field] = is_accepted
        return is_accepted
