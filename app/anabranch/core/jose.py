"""Keys that verify signatures. The only module that imports joserfc, the library of the extra `jwt`.

**Source:** RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (algorithms), RFC 8037 and RFC 9864 (Edwards curves).
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int

MOST_KEYS: Final = 100
_MOST_TRIED: Final = 10
_RSA_BITS: Final = range(2048, 16385)
_TYPES: Final[dict[tuple[str | None, str | None], tuple[type[RSAKey | ECKey | OKPKey], frozenset[str]]]] = {
    ("RSA", None): (RSAKey, frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})),
    ("EC", "P-256"): (ECKey, frozenset({"ES256"})),
    ("EC", "P-384"): (ECKey, frozenset({"ES384"})),
    ("EC", "P-521"): (ECKey, frozenset({"ES512"})),
    ("OKP", "Ed25519"): (OKPKey, frozenset({"EdDSA", "Ed25519"})),
}
"""By `kty` and `crv`, what a key is and the algorithms that it fits."""
_HMAC: Final = frozenset({"HS256", "HS384", "HS512"})
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")


class Key(NamedTuple):
    """A key that verifies. `algorithms`: those that it may be used with, by its type and by what its owner says: no other is ever tried with it."""

    kid: str | None
    algorithms: frozenset[str]
    key: Any


class KeySet:
    """The keys of one authority. `unusable`: why others of its keys are not used, by their index. Two sets with the same keys are equal."""

    __slots__ = ("_identity", "keys", "unusable")

    def __init__(self, keys: Collection[Key], unusable: dict[int, str] | None = None) -> None:
        self.keys = tuple(keys)
        self.unusable = unusable or {}
        self._identity = frozenset((key.kid, key.algorithms, key.key.thumbprint()) for key in self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @classmethod
    def parse(cls, text: bytes) -> "KeySet":
        """The keys of a JWK Set (RFC 7517 section 5). Those that cannot verify signatures are left out. Raises ValueError with a sentence when none is left."""
        try:
            found = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
        listed = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(listed, list):
            raise ValueError("it is not a JWK Set: an object with a list `keys`")  # noqa: TRY004 - the content of a file or an answer
        if len(listed) > MOST_KEYS:
            raise ValueError(f"it has more than {MOST_KEYS} keys")
        keys: list[Key] = []
        unusable: dict[int, str] = {}
        for index, jwk in enumerate(listed):
            try:
                keys.append(_key(jwk))
            except ValueError as error:
                unusable[index] = str(error)
        if not keys:
            reasons = "; ".join(dict.fromkeys(unusable.values()))
            raise ValueError(f"it has no key that verifies signatures{f': {reasons}' if reasons else ''}")
        return cls(keys, unusable)

    @classmethod
    def of_secret(cls, secret: bytes) -> "KeySet":
        """Raises ValueError with a sentence for a public key, which is no secret."""
        try:
            return cls([Key(None, _HMAC, OctKey.import_key(secret))])
        except ValueError:
            raise ValueError("it is a public key or a certificate, which everybody may know; set it as a key in `jwks_file`") from None

    def names(self, kid: str | None, algorithm: str) -> bool:
        """Whether a key is meant by this identifier."""
        return kid is not None and any(key.kid == kid and algorithm in key.algorithms for key in self.keys)

    def verify(self, *, algorithm: str, kid: str | None, signed: bytes, signature: bytes) -> bool:
        """Whether one of the keys has made the signature. An identifier selects the keys that have it, or none at all."""
        model = JWSRegistry.algorithms[algorithm]
        return any(_verified(model, key.key, signed, signature) for key in self._candidates(algorithm, kid))

    def _candidates(self, algorithm: str, kid: str | None) -> list[Key]:
        fit = [key for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)]
        # Each costs a verification, of tokens that anybody may send.
        return sorted(fit, key=lambda key: key.kid != kid)[:_MOST_TRIED]


def _verified(model: Any, key: Any, signed: bytes, signature: bytes) -> bool:
    try:
        verified: bool = model.verify(signed, signature, key)
    except (JoseError, ValueError):
        return False
    return verified


def _key(jwk: Any) -> Key:
    """Raises ValueError with the reason why it is not used."""
    if not isinstance(jwk, dict):
        raise ValueError("a key is not an object")  # noqa: TRY004 - the content of a file or an answer
    kid, kind, curve, meant = (jwk.get(name) for name in ("kid", "kty", "crv", "alg"))
    if not all(isinstance(member, str | None) for member in (kid, kind, curve, meant)):
        raise ValueError("a member of a key is not text")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("a key is not meant for signatures")
    if not _PRIVATE.isdisjoint(jwk):
        raise ValueError("a key is private or symmetric; it must not be published")
    model, algorithms = _TYPES.get((kind, curve), (None, frozenset()))
    if model is None:
        raise ValueError("a key has a type or curve that is not supported")
    if meant is not None and not (meant in algorithms and kind == "OKP"):  # an Edwards curve has one algorithm, with two names
        algorithms &= {meant}
    if not algorithms:
        raise ValueError("a key is for an algorithm that is not supported")
    public = {name: jwk[name] for name in _PUBLIC if name in jwk}
    try:
        bits = base64_to_int(public["n"]).bit_length() if kind == "RSA" else _RSA_BITS.start
        key = model.import_key(public) if bits in _RSA_BITS else None
    except (JoseError, ValueError, TypeError, KeyError, ArithmeticError, AttributeError):
        raise ValueError("a key is malformed") from None
    if key is None:
        raise ValueError(f"an RSA key has fewer than {_RSA_BITS.start} bits, or too many")
    return Key(kid, algorithms, key)
