"""Signs tokens for tests, with keys that everybody knows: those of the RFCs."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final

from joserfc.jwk import ECKey, OctKey, OKPKey
from joserfc.jws import JWSRegistry

# RFC 8037 appendix A.1.
ED25519: Final = {
    "kty": "OKP", "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}  # fmt: skip
# RFC 7515 appendix A.3.
P256: Final = {
    "kty": "EC", "crv": "P-256", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}  # fmt: skip
# RFC 7515 appendix A.1.
OCT: Final = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}
# RFC 7515 appendix A.2, without its private part.
RSA: Final = {
    "kty": "RSA", "e": "AQAB",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7O"
    "Mg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2"
    "PAcDTW9gb54h4FRWyuXpoQ",
}  # fmt: skip
SECRET: Final = "a secret of the tests, with 32 bytes or more"
ISSUER: Final = "https://id.example/"
NOW: Final = 1_800_000_000
"""When the tokens of the tests are looked at."""
_KINDS: Final[dict[str, Any]] = {"OKP": OKPKey, "EC": ECKey, "oct": OctKey}


def encode(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims(**changes: object) -> dict[str, object]:
    """Claims that are good at NOW. A change to None takes the claim out."""
    found = {"iss": ISSUER, "aud": "shop", "sub": "alice", "iat": NOW - 60, "exp": NOW + 3600, **changes}
    return {name: value for name, value in found.items() if value is not None}


def sign(
    said: dict[str, object] | bytes, key: dict[str, str] | str = ED25519, *, alg: str = "EdDSA", kid: str | None = "k1", **header: object
) -> str:
    """A token. `key`: a JWK, or a secret. `header`: further members of the header, and in place of others; None takes one out."""
    fields = {"alg": alg, "kid": kid, "typ": "JWT", **header}
    head = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    return sign_text(head, said if isinstance(said, bytes) else json.dumps(said).encode(), key, alg=alg)


def sign_text(head: bytes, body: bytes, key: Any = ED25519, *, alg: str = "EdDSA") -> str:
    """A token with this text as its header."""
    signed = f"{encode(head)}.{encode(body)}"
    made = OctKey.import_key(key) if isinstance(key, str) else _KINDS[key["kty"]].import_key(key) if isinstance(key, dict) else key
    return f"{signed}.{encode(JWSRegistry.algorithms[alg].sign(signed.encode(), made))}"


def public(key: dict[str, str], **members: object) -> dict[str, object]:
    """The public part of a key, with further members."""
    return {name: value for name, value in key.items() if name != "d"} | members


def jwks(*keys: dict[str, object]) -> bytes:
    """A JWK Set; of the Ed25519 key as `k1` if none is given."""
    return json.dumps({"keys": list(keys) or [public(ED25519, kid="k1")]}).encode()
