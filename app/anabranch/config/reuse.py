"""How long clients and caches in front of the gateway may keep the responses of an endpoint, in the document."""

from typing import Literal

from pydantic import Field, model_validator

from anabranch.config.base import Model
from anabranch.config.units import WholeSeconds


class ResponseCache(Model):
    """What complete responses of status 200 say in `Cache-Control` (RFC 9111). What is unset is computed from the answers that went into the response."""

    max_age_s: WholeSeconds | None = Field(None, alias="max_age")
    """For how long a response is fresh, whatever services say. 0s: a cache must ask again before it is used. If unset, as long as all answers in it are; a response with an
    answer of which nobody says how long it is fresh must be validated each time (`no-cache`)."""
    shared_max_age_s: WholeSeconds | None = Field(None, alias="shared_max_age")
    """The same for caches that serve several clients, such as a CDN (`s-maxage`). If unset, as `max_age`. Has no effect on private responses."""
    scope: Literal["public", "private"] | None = None
    """`public`: shared caches may keep the responses for everybody, even if a client has proven who it is. `private`: only the client itself may keep them. If unset,
    responses are private when the endpoint has `auth`, when they depend on a cookie or a credential of the client, when they set a cookie, and when an answer in
    them is private."""
    stale_while_revalidate_s: WholeSeconds | None = Field(None, alias="stale_while_revalidate")
    """For how long a cache may use a response that is no longer fresh, while it asks for a new one (RFC 5861)."""
    stale_if_error_s: WholeSeconds | None = Field(None, alias="stale_if_error")
    """For how long a cache may use a response that is no longer fresh when it cannot get a new one (RFC 5861)."""
    immutable: bool = False
    """The response never changes while it is fresh, so a browser does not ask again on a reload (RFC 8246)."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "ResponseCache":
        if self.scope == "private" and self.shared_max_age_s is not None:
            raise ValueError("`shared_max_age` has no effect on private responses: no shared cache keeps them")
        if self.immutable and not self.max_age_s:
            raise ValueError("`immutable` needs `max_age`: for how long the response does not change")
        return self
