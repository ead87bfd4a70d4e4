"""What a JSON Web Token says, and whether that is acceptable. Its signature is checked elsewhere: nothing here is true before it is.

**Source:** RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best current practices).
"""

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from anabranch.guard.auth.seam import InvalidCredential
from anabranch.jsontext.proof import NotJSON, prove

MOST_BYTES: Final = 8192
"""Of a token. Servers and proxies bound a header field likewise."""
INVALID_TOKEN: Final = 'error="invalid_token"'  # noqa: S105 - a parameter of a challenge
"""**Source:** RFC 6750 section 3.1."""
# RFC 7515 section 7.1, in the alphabet of RFC 4648 section 5, without padding. An empty signature is that of `none`. Five parts are an encrypted token.
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_NAMES: Final = ("name", "preferred_username", "username", "client_id", "azp")
# Later dates than 9999 are mistakes or attempts to overflow something.
_LATEST: Final = 253402300800


def refused(reason: str) -> InvalidCredential:
    """The refusal of a token."""
    return InvalidCredential(reason, INVALID_TOKEN)


class Token(msgspec.Struct, frozen=True):
    """A token as sent. `algorithm`, `kid`, `typ`: of its header. `claims`: its claims; `text`: the same as JSON text. `signed`: what its `signature` is of."""

    algorithm: str
    kid: str | None
    typ: str | None
    claims: dict[str, Any]
    text: bytes
    signed: bytes
    signature: bytes


def read(token: bytes) -> Token:
    """Parse a token in compact form. Raises InvalidCredential, also for an encrypted one.

    Keys in its header (`jwk`, `jku`, `x5c`, `x5u`) are not looked at: whoever forges a token would bring them along.
    """
    if len(token) > MOST_BYTES:
        raise refused("too_large")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise refused("malformed")
    header, claims, signature = parts.groups()
    try:
        fields = object_of(_decoded(header))
        text = _decoded(claims)
        known = object_of(text)
        proof = _decoded(signature)
    except (ValueError, RecursionError):
        raise refused("malformed") from None
    algorithm, kid, typ = fields.get("alg"), fields.get("kid"), fields.get("typ")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None) or not isinstance(typ, str | None):
        raise refused("malformed")
    # RFC 7515 section 4.1.11, RFC 7797 section 6: no extension is understood here.
    if "crit" in fields or fields.get("b64", True) is not True:
        raise refused("critical")
    return Token(algorithm=algorithm, kid=kid, typ=typ, claims=known, text=text, signed=token[: parts.end(2)], signature=proof)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What tokens have to say. `issuer`: None: anything. `audiences`: one of these; empty: anything. `types`: see `type_of`; None is for tokens without `typ`.
    `required`: claims that must be there. `leeway_s`: between the clocks of authority and gateway."""

    algorithms: frozenset[str]
    issuer: str | None
    audiences: frozenset[str]
    types: frozenset[str | None]
    required: tuple[str, ...]
    leeway_s: float

    def check(self, token: Token, now: float) -> float:
        """When the token expires, in seconds since the epoch, leeway included. Raises InvalidCredential."""
        if token.algorithm not in self.algorithms:
            raise refused("algorithm")
        if type_of(token.typ) not in self.types:
            raise refused("type")
        claims = token.claims
        if any(name not in claims for name in self.required):
            raise refused("missing_claim")
        expires_at = check_dates(claims, now, self.leeway_s)
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise refused("issuer")
        check_audience(claims, self.audiences)
        return expires_at


def check_dates(claims: dict[str, Any], now: float, leeway_s: float) -> float:
    """When they end, in seconds since the epoch. Raises InvalidCredential. **Source:** RFC 7519 sections 4.1.4 to 4.1.6."""
    expires_at = math.inf if (exp := _date(claims, "exp")) is None else exp + leeway_s
    if now >= expires_at:
        raise refused("expired")
    if any((date := _date(claims, name)) is not None and date > now + leeway_s for name in ("nbf", "iat")):
        raise refused("not_yet_valid")
    return expires_at


def check_audience(claims: dict[str, Any], audiences: frozenset[str]) -> None:
    """`audiences`: one of these; empty: any. Raises InvalidCredential. **Source:** RFC 7519 section 4.1.3."""
    if audiences and audiences.isdisjoint(_audiences(claims.get("aud"))):
        raise refused("audience")


def subject_of(claims: dict[str, Any], name: str) -> str:
    """The identifier of the client, which is the claim of this name. Raises InvalidCredential."""
    subject = claims.get(name)
    if not isinstance(subject, str) or not subject:
        raise refused("subject")
    return subject


def name_of(claims: dict[str, Any], subject: str) -> str:
    """What to call the client. **Source:** OpenID Connect Core 1.0 section 5.1, RFC 7662 section 2.2, RFC 8693 section 4.3."""
    return next((name for claim in _NAMES if isinstance(name := claims.get(claim), str) and name), subject)


def type_of(typ: str | None) -> str | None:
    """A media type in the form in which two can be compared. **Source:** RFC 7515 section 4.1.9."""
    return None if typ is None else typ.lower().removeprefix("application/")


def object_of(text: bytes) -> dict[str, Any]:
    """A JSON object in which no name is twice, at any depth: of two, each reader takes another. Raises ValueError and RecursionError."""
    prove(text)
    found = json.loads(text, object_pairs_hook=_distinct)
    if not isinstance(found, dict):
        raise NotJSON("not an object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJSON("a name is there twice")
    return found


def _decoded(part: bytes) -> bytes:
    """Raises ValueError. What is not in canonical form is refused: else one token could be written in several ways."""
    decoded = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != part:
        raise ValueError
    return decoded


def _date(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), which may have a fraction."""
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LATEST:
        raise refused("malformed")
    return float(value)


def _audiences(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
