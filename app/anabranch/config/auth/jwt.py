"""Signed tokens in the document: JSON Web Tokens, and which of them are accepted."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from anabranch.config.auth.bearer import Bearer, Text
from anabranch.config.base import URLWithQuery
from anabranch.config.units import Duration, DurationOrZero
from anabranch.core.exchange import Address

Asymmetric = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
Symmetric = Literal["HS256", "HS384", "HS512"]

ASYMMETRIC: Final[tuple[Asymmetric, ...]] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""How long a secret has to be, by algorithm. **Source:** RFC 7518 section 3.2."""
_LEAST_SECRET_BYTES: Final = 16
_OF_FETCHED_KEYS: Final = {"refresh_s": "refresh", "keep_s": "keep", "timeout_s": "timeout", "tls": "tls"}


def _secret(value: str) -> str:
    if len(value.encode()) < _LEAST_SECRET_BYTES:
        raise ValueError(f"has fewer than {_LEAST_SECRET_BYTES} bytes: it can be guessed")
    return value


class JWT(Bearer):
    """Tokens that an authority has signed: JSON Web Tokens (RFC 7519), as bearer tokens (RFC 6750) or in a cookie. Needs the extra `jwt`.

    The keys that verify them come from one of `jwks_url`, `jwks_file` and `secret`; if none is set, from the `jwks_uri` of the issuer's metadata (OpenID Connect
    Discovery), below `issuer` at `/.well-known/openid-configuration`.
    """

    issuer: Text | None = None
    """The `iss` that tokens must have, exactly as they have it. If unset, any; only with `jwks_url`, `jwks_file` or `secret`."""
    audience: Text | list[Text] | None = None
    """The `aud` that tokens must have: one of these values. If unset, tokens that the authority has issued for other services are accepted too."""
    jwks_url: URLWithQuery | None = None
    """Where the authority publishes its keys, as a JWK Set (RFC 7517 section 5)."""
    jwks_file: Text | None = None
    """A file with such a JWK Set, relative to the document's file. It is read again at each reload."""
    secret: Annotated[str, AfterValidator(_secret)] | None = None
    """The secret that the tokens are signed with (HS256, HS384, HS512), as `${NAME}` or `${file:PATH}`. At least 16 bytes, and as many as the hash has to be safe."""
    algorithms: list[Asymmetric | Symmetric] | None = Field(None, min_length=1)
    """The algorithms that tokens may be signed with. If unset, all asymmetric ones; with `secret`, HS256."""
    leeway_s: DurationOrZero = Field(30.0, alias="leeway")
    """How far the clocks of authority and gateway may differ when `exp`, `nbf` and `iat` are checked. 0: not at all."""
    typ: Text | list[Text] = Field(default_factory=lambda: ["JWT", "at+jwt"])
    """Values of `typ` in the header of tokens that are accepted (RFC 8725 section 3.11). If unset, `JWT`, `at+jwt` and none at all; if set, the token must have one."""
    require: list[Text] = Field(default_factory=lambda: ["exp"])
    """Claims that tokens must have, besides the subject, `iss` and `aud`. An empty list accepts tokens that never expire."""
    refresh_s: Duration = Field(600.0, alias="refresh")
    """The keys are fetched again at least this often; earlier, but not more than twice a minute, if `Cache-Control: max-age` of the authority says so."""
    keep_s: Duration = Field(86400.0, alias="keep")
    """How long keys are used while the authority gives no new ones. Then tokens cannot be verified any more, and requests are answered with 503."""

    @property
    def authority(self) -> str | None:
        return self.jwks_url or (self.issuer if self.jwks_file is None and self.secret is None else None)

    def scheme(self) -> dict[str, Any]:
        scheme = super().scheme()
        return scheme | {"bearerFormat": "JWT"} if scheme["type"] == "http" else scheme

    @property
    def accepted(self) -> tuple[str, ...]:
        """The algorithms."""
        return tuple(self.algorithms or (ASYMMETRIC if self.secret is None else ("HS256",)))

    @model_validator(mode="after")
    def _has_keys(self) -> "JWT":
        given = [key for key in ("jwks_url", "jwks_file", "secret") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` are both set; the keys come from one of them")
        if not given:
            if self.issuer is None:
                raise ValueError("set one of `jwks_url`, `jwks_file` and `secret`, or `issuer` to find the keys by its metadata")
            try:
                Address.parse(self.issuer)
            except ValueError:
                raise ValueError(
                    "`issuer` is not a URL, so its keys cannot be found; set one of `jwks_url`, `jwks_file` and `secret`"
                ) from None
        fixed = next((key for key in given if key != "jwks_url"), None)
        idle = next((key for field, key in _OF_FETCHED_KEYS.items() if field in self.model_fields_set), None)
        if fixed is not None and idle is not None:
            raise ValueError(f"`{idle}` has no effect with `{fixed}`: nothing is fetched")
        return self

    @model_validator(mode="after")
    def _fits_its_keys(self) -> "JWT":
        # The type of a key decides which algorithms can be meant: a public key must never serve as the secret of an HMAC (RFC 8725 section 2.1).
        for algorithm in self.accepted:
            if (algorithm in SECRET_BYTES) != (self.secret is not None):
                needed = "needs a `secret`" if algorithm in SECRET_BYTES else "cannot be used with a `secret`"
                raise ValueError(f"the algorithm {algorithm} {needed}")
        return self
