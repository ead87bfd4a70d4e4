"""Opaque tokens in the document: an authority says what they are."""

from typing import Literal

from pydantic import Field

from anabranch.config.auth.bearer import Bearer, Text
from anabranch.config.base import URLWithQuery
from anabranch.config.units import DurationOrZero


class Introspection(Bearer):
    """Tokens that only their authority understands: it is asked about each one (OAuth 2.0 Token Introspection, RFC 7662)."""

    url: URLWithQuery
    """The introspection endpoint of the authority."""
    client_id: Text
    """The gateway's client id at the authority."""
    client_secret: Text
    """The gateway's client secret: `${NAME}` or `${file:PATH}`."""
    client_auth: Literal["basic", "post"] = "basic"
    """How the client id and secret are sent: `basic` in an Authorization header, `post` in the form (RFC 6749 section 2.3.1)."""
    audience: Text | list[Text] | None = None
    """The `aud` that tokens must have: one of these values. If unset, tokens for any service that the authority calls active here."""
    cache_s: DurationOrZero = Field(30.0, alias="cache")
    """How long an active token is not asked about again; never beyond its `exp`. A token that is revoked meanwhile is accepted until then. 0: every request asks. Inactive
    tokens are remembered for at most 5 seconds."""

    @property
    def authority(self) -> str:
        return self.url
