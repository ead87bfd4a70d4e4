"""Whatever is sent as a token, or answered as keys, is accepted or refused in the documented way."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.core.jose import KeySet
from anabranch.guard.auth.bearer import finder
from anabranch.guard.auth.seam import InvalidCredential
from anabranch.guard.auth.token import Rules, name_of, read, subject_of
from tests.support.tokens import ED25519, ISSUER, NOW, P256, RSA, claims, decode, encode, public, sign

few = settings(max_examples=25)
RULES = Rules(
    algorithms=frozenset({"EdDSA"}),
    issuer=ISSUER,
    audiences=frozenset({"shop"}),
    types=frozenset({"jwt", None}),
    required=("exp",),
    leeway_s=30.0,
)
KEYS = KeySet.parse(json.dumps({"keys": [public(ED25519, kid="k1")]}).encode())
GOOD = sign(claims())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5
)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "name", "client_id"]), JSON, max_size=8)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c"]), JSON, max_size=5)
MEMBERS = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "alg", "key_ops", "d", "k", "x5c", "ext"])


def accepted(token: bytes) -> bool:
    """As an authenticator does it. Raises what must not be raised."""
    with contextlib.suppress(InvalidCredential):
        found = read(token)
        RULES.check(found, NOW)
        name_of(found.claims, subject_of(found.claims, "sub"))
        return KEYS.verify(algorithm=found.algorithm, kid=found.kid, signed=found.signed, signature=found.signature)
    return False


def test_the_good_token_is_accepted() -> None:
    assert accepted(GOOD.encode())


@few
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(token: bytes) -> None:
    assert not accepted(token)
    for place in (("header", "authorization"), ("header", "x-token"), ("cookie", "token")):
        finder(place)({b"authorization": token, b"x-token": token, b"cookie": token})


@few
@given(HEADERS, CLAIMS)
def test_any_header_and_claims_without_a_good_signature(header: dict[str, Any], said: dict[str, Any]) -> None:
    token = f"{encode(json.dumps({'alg': 'EdDSA', **header}).encode())}.{encode(json.dumps(claims() | said).encode())}.{GOOD.split('.')[2]}"
    assert not accepted(token.encode())


@few
@given(CLAIMS)
def test_any_claims_that_are_signed(said: dict[str, Any]) -> None:
    accepted(sign(claims() | said).encode())


@few
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_is_accepted(at: int, change: int) -> None:
    token = bytearray(GOOD.encode())
    token[at] ^= change
    assert not accepted(bytes(token))


@few
@given(st.integers(0, 511))
def test_no_changed_bit_of_the_signature_is_accepted(bit: int) -> None:
    head, body, signature = GOOD.split(".")
    changed = bytearray(decode(signature))
    changed[bit // 8] ^= 1 << bit % 8
    assert not accepted(f"{head}.{body}.{encode(bytes(changed))}".encode())


@few
@given(st.sampled_from([ED25519, P256, RSA]), st.dictionaries(MEMBERS, JSON | st.text("AQgw_-xyz", max_size=50), max_size=4))
def test_any_members_of_a_key(key: dict[str, str], changes: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        KeySet.parse(json.dumps({"keys": [public(key) | changes]}).encode())


@few
@given(
    st.binary(max_size=100)
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps({"keys": value}).encode())
)
def test_any_answer_of_an_authority(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        KeySet.parse(text)
