"""What kinds of tokens have in common in the document: where a request has its token, and the authority that knows it."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, Field, model_validator

from anabranch.config.auth.kind import Kind
from anabranch.config.base import HeaderName
from anabranch.config.units import Duration
from anabranch.config.upstream import TLS

AUTHORIZATION: Final = "authorization"


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


Text = Annotated[str, AfterValidator(_not_empty)]


class Bearer(Kind):
    """Tokens of clients."""

    has_token: ClassVar[bool] = True

    header: HeaderName | None = None
    """The header field of the token, with or without the word `Bearer`. If unset, `authorization`, in which the word is required."""
    cookie: HeaderName | None = None
    """The cookie of the token, instead of a header field."""
    subject: Text = "sub"
    """The claim that identifies the client, and becomes `{auth.sub}`."""
    timeout_s: Duration = Field(5.0, alias="timeout")
    """Longest time that the authority may take to answer."""
    tls: TLS | None = None
    """Certificates and TLS settings for the authority. If unset, the system's certificate authorities are trusted."""

    @property
    def place(self) -> tuple[str, str]:
        """Where the token stands, as OpenAPI calls it (section 4.8.27.1), and its name there."""
        return ("header", (self.header or AUTHORIZATION).lower()) if self.cookie is None else ("cookie", self.cookie)

    @property
    def credential_fields(self) -> list[str]:
        where, name = self.place
        return [name] if where == "header" else ["cookie"]

    def scheme(self) -> dict[str, Any]:
        where, name = self.place
        if (where, name) == ("header", AUTHORIZATION):
            return {"type": "http", "scheme": "bearer"}
        return {"type": "apiKey", "in": where, "name": name}

    @property
    @abstractmethod
    def authority(self) -> str | None:
        """The URL at which the authority is asked first; None when it never is."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Bearer":
        if self.header is not None and self.cookie is not None:
            raise ValueError("`header` and `cookie` are both set; a token comes in one of them")
        if self.tls is not None and (self.authority or "").startswith("http://"):
            raise ValueError("`tls` has no effect with an http:// URL")
        return self
