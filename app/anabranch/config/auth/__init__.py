"""Authentication in the document: what clients may prove their identity with, and which of it an endpoint accepts."""

from typing import Annotated

from pydantic import Field, model_validator

from anabranch.config.auth.api_key import APIKeys as APIKeys
from anabranch.config.auth.basic import Basic as Basic
from anabranch.config.auth.bearer import Bearer as Bearer
from anabranch.config.auth.introspection import Introspection as Introspection
from anabranch.config.auth.jwt import JWT as JWT
from anabranch.config.auth.kind import Kind as Kind
from anabranch.config.auth.mtls import MTLS as MTLS
from anabranch.config.base import Model, Name
from anabranch.config.units import Count, PerPeriod


class Authentication(Model):
    """One way in which clients prove who they are. It is of the kind whose key it has."""

    api_key: APIKeys | None = None
    """A secret of each client, in a header field, the query or a cookie."""
    basic: Basic | None = None
    """Name and password."""
    jwt: JWT | None = None
    """A token that an authority has signed."""
    introspection: Introspection | None = None
    """A token that an authority is asked about."""
    mtls: MTLS | None = None
    """A client certificate."""

    @model_validator(mode="after")
    def _has_a_kind(self) -> "Authentication":
        kinds = list(type(self).model_fields)
        if len(self.model_fields_set) != 1:
            raise ValueError(f"an authentication needs one of {', '.join(f'`{kind}`' for kind in kinds)}, and not several")
        return self

    @property
    def kind(self) -> Kind:
        """The one that is set."""
        found: Kind = getattr(self, next(iter(self.model_fields_set)))
        return found


class AuthFailures(Model):
    """How many credentials of one client address may be refused."""

    rate: PerPeriod
    """Refused credentials in a time, such as `10/1m`. Beyond this, requests of the address whose credential is not known to be good are answered with 429, and nothing is verified. An
    IPv6 address counts by its /64. Counted in the memory of each worker process."""
    burst: Count | None = Field(None, ge=1)
    """Refused credentials that may come at once. If unset, the number of `rate`."""


class Access(Model):
    """Who may use an endpoint."""

    any_: list[Name] = Field(alias="any", min_length=1)
    """Names in `auth`: a client needs to prove its identity in one of these ways."""
    allow: str | None = None
    """A condition on the client and its request, in CEL with references in braces: `'"admin" in {auth.claims.roles} || {auth.sub} == {path.user}'`. A request
    for which it does not hold, or cannot be evaluated, is rejected with 403. It may refer to `auth`, `path`, `query`, `header`, `cookie` and `body`."""


Auth = Annotated[Name | list[Name] | Access, "the name of an authentication, several of which one suffices, or `none`"]
NONE = "none"
"""In place of a name: everybody may come in."""


def access_of(auth: "Auth | None") -> Access | None:
    """What a document says in short, in full; None where everybody may come in."""
    if isinstance(auth, str):
        return None if auth == NONE else Access.model_construct({"any_"}, any_=[auth])
    return Access.model_construct({"any_"}, any_=auth) if isinstance(auth, list) else auth
