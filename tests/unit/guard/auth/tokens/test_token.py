"""What tokens may say, and in which form. Most of the forms that are refused here were accepted by some library once."""

import json
import math
from typing import Any

import pytest

from anabranch.guard.auth.seam import InvalidCredential
from anabranch.guard.auth.token import MOST_BYTES, Rules, name_of, read, subject_of
from tests.support.tokens import ED25519, ISSUER, NOW, OCT, RSA, claims, encode, public, sign, sign_text

RULES: dict[str, Any] = {
    "algorithms": frozenset({"EdDSA", "RS256"}),
    "issuer": ISSUER,
    "audiences": frozenset({"shop"}),
    "types": frozenset({"jwt", "at+jwt", None}),
    "required": ("exp",),
    "leeway_s": 30.0,
}


def check(token: str, **changes: Any) -> float:
    return Rules(**{**RULES, **changes}).check(read(token.encode()), NOW)


def reason(token: str | bytes, **changes: Any) -> str:
    with pytest.raises(InvalidCredential) as caught:
        rules = Rules(**{**RULES, **changes})
        found = read(token if isinstance(token, bytes) else token.encode())
        rules.check(found, NOW)
        subject_of(found.claims, "sub")
    assert caught.value.challenge == 'error="invalid_token"'
    return caught.value.reason


def test_a_good_token_is_valid_until_it_expires_and_the_leeway_has_passed() -> None:
    assert check(sign(claims())) == NOW + 3600 + 30


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": None}, "missing_claim"),
        ({"exp": str(NOW + 60)}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": [NOW + 60]}, "malformed"),
        ({"exp": -1}, "malformed"),
        ({"exp": 10**300}, "malformed"),
        ({"exp": {}}, "malformed"),
        ({"nbf": NOW + 31}, "not_yet_valid"),
        ({"iat": NOW + 31}, "not_yet_valid"),
        ({"nbf": "soon"}, "malformed"),
        ({"iss": "https://id.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"aud": "bank"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": {"shop": 1}}, "audience"),
        ({"aud": ["bank", 7]}, "audience"),
        ({"aud": "shop-admin"}, "audience"),
        ({"sub": None}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "subject"),
        ({"sub": "\ud800"}, "malformed"),
    ],
)
def test_claims_that_are_refused(changes: dict[str, object], expected: str) -> None:
    assert reason(sign(claims(**changes))) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 29},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 30},
        {"iat": NOW + 29.9},
        {"iat": None},
        {"aud": ["bank", "shop"]},
        {"nbf": 0},
    ],
)
def test_claims_that_are_accepted(changes: dict[str, object]) -> None:
    check(sign(claims(**changes)))


def test_what_is_not_set_is_not_checked() -> None:
    token = sign(claims(iss=None, aud=None, exp=None))

    assert check(token, issuer=None, audiences=frozenset(), required=()) == math.inf


def test_required_claims_have_to_be_there() -> None:
    assert reason(sign(claims()), required=("exp", "tenant")) == "missing_claim"
    check(sign(claims(tenant=None) | {"tenant": None}), required=("exp", "tenant"))


@pytest.mark.parametrize(
    ("typ", "types", "is_accepted"),
    [
        ("JWT", {"jwt", None}, True),
        ("jwt", {"jwt", None}, True),
        (None, {"jwt", None}, True),
        ("application/at+jwt", {"at+jwt"}, True),
        ("AT+JWT", {"at+jwt"}, True),
        (None, {"at+jwt"}, False),
        ("JWT", {"at+jwt"}, False),
        ("logout+jwt", {"jwt", "at+jwt", None}, False),
        ("dpop+jwt", {"jwt", "at+jwt", None}, False),
    ],
)
def test_the_type_of_a_token(typ: str | None, types: set[str | None], *, is_accepted: bool) -> None:
    token = sign(claims(), typ=typ)

    if is_accepted:
        check(token, types=frozenset(types))
    else:
        assert reason(token, types=frozenset(types)) == "type"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "HS256", "", "RS257", "dir", "ES256"])
def test_algorithms_that_the_document_does_not_name_are_refused(alg: str) -> None:
    _, body, signature = sign(claims()).split(".")
    forged = encode(json.dumps({"alg": alg, "typ": "JWT"}).encode())

    assert reason(f"{forged}.{body}.{signature}") == "algorithm"
    assert reason(f"{forged}.{body}.") == "malformed"
    assert reason(f"{forged}.{body}") == "malformed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"crit": ["exp"], "exp": 1}, "critical"),
        ({"crit": ["b64"], "b64": False}, "critical"),
        ({"crit": []}, "critical"),
        ({"crit": "x"}, "critical"),
        ({"b64": False}, "critical"),
        ({"b64": "false"}, "critical"),
        ({"alg": 7}, "malformed"),
        ({"alg": ["EdDSA"]}, "malformed"),
        ({"alg": None}, "malformed"),
        ({"kid": 7}, "malformed"),
        ({"kid": {"a": 1}}, "malformed"),
        ({"typ": ["JWT"]}, "malformed"),
    ],
)
def test_headers_that_are_refused(header: dict[str, object], expected: str) -> None:
    fields = {"alg": "EdDSA", "typ": "JWT", **header}
    token = sign_text(
        json.dumps({name: value for name, value in fields.items() if value is not None}).encode(), json.dumps(claims()).encode()
    )

    assert reason(token) == expected


@pytest.mark.parametrize(
    "header", [{"jwk": public(ED25519)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}, {"x5c": ["MIIB"]}]
)
def test_keys_in_the_header_mean_nothing(header: dict[str, Any]) -> None:
    assert read(sign(claims(), **header).encode()).algorithm == "EdDSA"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b'{"alg":"EdDSA","alg":"none"}', b'{"sub":"a"}'),
        (b'{"alg":"EdDSA","kid":"a","kid":"b"}', b'{"sub":"a"}'),
        (b'{"alg":"EdDSA"}', b'{"sub":"a","sub":"admin"}'),
        (b'{"alg":"EdDSA"}', rb'{"sub":"a","s\u0075b":"admin"}'),
        (b'{"alg":"EdDSA"}', b'{"sub":"a","realm":{"roles":[1],"roles":[2]}}'),
        (b'{"alg":"EdDSA"}', b'["sub"]'),
        (b'{"alg":"EdDSA"}', b'"sub"'),
        (b'{"alg":"EdDSA"}', b"null"),
        (b'{"alg":"EdDSA"}', b""),
        (b'{"alg":"EdDSA"}', b'{"sub":"a"} x'),
        (b'{"alg":"EdDSA"}', b'{"sub":NaN}'),
        (b'{"alg":"EdDSA"}', b'{"sub":"\xff"}'),
        (b'{"alg":"EdDSA"}', b'\xef\xbb\xbf{"sub":"a"}'),
        (b'{"alg":"EdDSA"}', b'{"sub":"a","x":' + b"[" * 2000 + b"]" * 2000 + b"}"),
        (b'{"alg":"EdDSA"}', b'{"sub":"a","exp":' + b"9" * 4400 + b"}"),
        (b"[]", b'{"sub":"a"}'),
        (b"{", b'{"sub":"a"}'),
        (b'{"alg":"EdDSA",}', b'{"sub":"a"}'),
    ],
)
def test_json_that_two_readers_could_understand_differently(head: bytes, body: bytes) -> None:
    assert reason(sign_text(head, body)) == "malformed"


def test_a_date_that_overflows() -> None:
    assert reason(sign_text(b'{"alg":"EdDSA"}', b'{"exp":1e400}')) == "malformed"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"x",
        b"..",
        b"a.b",
        b"a.b.c.d",
        b"a.b.c.d.e",
        b"a b c",
        b"\xff.\xff.\xff",
        b"a.b.c\n",
        b"a=.b=.c=",
        b"a.b.c,a.b.c",
        b"A.A.A",
    ],
)
def test_texts_that_are_no_token(token: bytes) -> None:
    assert reason(token) == "malformed"


def test_an_encrypted_token_is_refused() -> None:
    assert reason(".".join([encode(b'{"alg":"dir","enc":"A128GCM"}'), "", "AAAA", "AAAA", "AAAA"])) == "malformed"


def test_a_token_can_be_written_in_one_way_only() -> None:
    token = sign(claims())
    head, body, signature = token.split(".")
    last = signature[-1]
    others = [char for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" if char != last]

    assert all(reason(f"{head}.{body}.{signature[:-1]}{char}") == "malformed" for char in others if char not in "AQgw")
    assert reason(f"{token}==") == "malformed"
    assert reason(token.replace(".", " .")) == "malformed"


def test_a_huge_token_is_not_even_parsed() -> None:
    assert reason(b"a" * (MOST_BYTES + 1)) == "too_large"
    assert reason(sign(claims(x="y" * MOST_BYTES))) == "too_large"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"name": "Ann", "preferred_username": "ann"}, "Ann"),
        ({"preferred_username": "ann", "client_id": "c"}, "ann"),
        ({"client_id": "c"}, "c"),
        ({"name": 7, "azp": "z"}, "z"),
        ({"name": ""}, "sub"),
        ({}, "sub"),
    ],
)
def test_what_a_client_is_called(said: dict[str, object], name: str) -> None:
    assert name_of(said, "sub") == name


def test_another_claim_may_identify_the_client() -> None:
    assert subject_of({"sub": "a", "oid": "b"}, "oid") == "b"


# RFC 7519 section 3.1 and RFC 7515 appendix A.1: the first example of each.
EXAMPLE = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def test_the_example_of_the_rfc_is_read() -> None:
    token = read(EXAMPLE.encode())

    assert token.claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert (token.algorithm, token.typ, token.kid) == ("HS256", "JWT", None)
    assert OCT["kty"] == "oct"
    assert RSA["e"] == "AQAB"
