"""Refuses a request whose client does not accept what its endpoint answers with, before anything is called for it.

An endpoint has one media type, so there is nothing to choose. Problem documents are sent whatever the client accepts: RFC 9110 section 15.5.7
allows that, and a client that reads only JSON is better served by a problem than by an empty response.
"""

from collections.abc import Callable

from anabranch.core.negotiation import MediaType, Remembered, accepts
from anabranch.edge import problems
from anabranch.engine.request import ClientRequest
from anabranch.errors import NotAcceptable
from anabranch.plan.model import EndpointPlan

CheckAccept = Callable[[ClientRequest], None]
"""Raises NotAcceptable. Costs one look-up in a dict for a request without `Accept`, and two for a field that came before."""


def check_of(plan: EndpointPlan) -> CheckAccept:
    """What checks the requests of an endpoint."""
    written = plan.response.media_type
    if written is None or not plan.is_negotiated:
        return _check_nothing
    media_type = MediaType.parse(written)
    available = [written, problems.MEDIA_TYPE.decode()]
    detail = f"the response is {written}, which the `accept` field of the request does not allow"
    is_accepted = Remembered(lambda field: accepts(field, media_type), otherwise=True)
    known = is_accepted.known

    def check(request: ClientRequest) -> None:
        field = request.headers.get(b"accept")
        if field is None or known.get(field) or request.wants_notes or is_accepted(field):
            return
        raise NotAcceptable(detail, headers={"vary": "Accept"}, members={"available": available})

    return check


def _check_nothing(request: ClientRequest) -> None:
    """For an endpoint that is not negotiated."""
