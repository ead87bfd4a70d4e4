import json
import warnings

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from anabranch.core.jose import MOST_KEYS, KeySet
from tests.support.tokens import ED25519, OCT, P256, RSA, SECRET, claims, decode, jwks, public, sign

_BODY = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
_RS256 = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K"
    "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)


def verifies(keys: KeySet, token: str, *, alg: str, kid: str | None = None) -> bool:
    head, body, signature = token.split(".")
    return keys.verify(algorithm=alg, kid=kid, signed=f"{head}.{body}".encode(), signature=decode(signature))


@pytest.mark.parametrize(
    ("keys", "token", "alg"),
    [
        # RFC 7515 appendices A.1, A.2, A.3; RFC 8037 appendix A.4.
        (
            KeySet.of_secret(decode(OCT["k"])),
            f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{_BODY}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "HS256",
        ),
        (KeySet.parse(jwks(public(RSA))), f"eyJhbGciOiJSUzI1NiJ9.{_BODY}.{_RS256}", "RS256"),
        (
            KeySet.parse(jwks(public(P256))),
            f"eyJhbGciOiJFUzI1NiJ9.{_BODY}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            "ES256",
        ),
        (
            KeySet.parse(jwks(public(ED25519))),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            "EdDSA",
        ),
    ],
    ids=["A.1", "A.2", "A.3", "RFC 8037"],
)
def test_the_examples_of_the_rfcs(keys: KeySet, token: str, alg: str) -> None:
    assert verifies(keys, token, alg=alg)
    head, body, signature = token.split(".")
    assert not verifies(keys, f"{head}.{body}.{'A' * len(signature)}", alg=alg)
    assert not verifies(keys, f"{head}.{body[:-2]}AA.{signature}", alg=alg)


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (RSAKey.generate_key(2048), "RS512"),
        (RSAKey.generate_key(2048), "PS384"),
        (ECKey.generate_key("P-384"), "ES384"),
        (ECKey.generate_key("P-521"), "ES512"),
        (OKPKey.generate_key("Ed25519"), "Ed25519"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_algorithm_verifies_what_it_has_signed(key: RSAKey | ECKey | OKPKey, alg: str) -> None:
    keys = KeySet.parse(jwks(dict(key.as_dict(private=False), kid="k1")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = sign(claims(), key, alg=alg)  # type: ignore[arg-type]

        assert verifies(keys, token, alg=alg, kid="k1")
        assert not verifies(keys, token, alg=alg, kid="k2")


def test_a_public_key_is_never_the_secret_of_an_hmac() -> None:
    key = RSAKey.generate_key(2048)
    keys = KeySet.parse(jwks(dict(key.as_dict(private=False))))
    for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode(), key.as_der(private=False)):
        with pytest.raises(ValueError, match="it is a public key") if secret[:1] != b"{" else warnings.catch_warnings():
            KeySet.of_secret(secret)
    assert not verifies(keys, sign(claims(), SECRET, alg="HS256"), alg="HS256")


def test_a_key_is_used_only_for_what_its_owner_says() -> None:
    token = sign(claims())
    good: tuple[dict[str, object], ...] = (
        {},
        {"use": "sig"},
        {"alg": "EdDSA"},
        {"alg": "Ed25519"},
        {"key_ops": ["verify"]},
        {"x5t": "abc"},
    )
    bad = ({"use": "enc"}, {"use": 7}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"alg": "RS256"}, {"alg": 7}, {"kid": 7}, {"crv": "X25519"}, {"crv": "P-256"}, {"kty": "EC"}, {"x": 7}, {"x": "AAAA"}, {"kty": ["OKP"]})  # fmt: skip

    assert all(verifies(KeySet.parse(jwks(public(ED25519) | members)), token, alg="EdDSA") for members in good)
    for members in bad:
        with pytest.raises(ValueError, match="it has no key that verifies signatures: a"):
            KeySet.parse(jwks(public(ED25519) | members))


def test_an_algorithm_is_not_used_with_a_key_for_another_one() -> None:
    rsa = RSAKey.generate_key(2048)
    keys = KeySet.parse(jwks(dict(rsa.as_dict(private=False), kid="k1", alg="RS256")))

    assert verifies(keys, sign(claims(), rsa, alg="RS256"), alg="RS256", kid="k1")  # type: ignore[arg-type]
    assert not verifies(keys, sign(claims(), rsa, alg="PS256"), alg="PS256", kid="k1")  # type: ignore[arg-type]


def test_a_weak_key_is_not_used() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024)
    strong = public(ED25519, kid="k1")

    with pytest.raises(ValueError, match="fewer than 2048 bits"):
        KeySet.parse(jwks(dict(weak.as_dict(private=False))))
    keys = KeySet.parse(jwks(dict(weak.as_dict(private=False)), strong))
    assert (len(keys.keys), list(keys.unusable)) == (1, [0])


def test_a_key_that_should_be_secret_is_not_used() -> None:
    for secret in (ED25519, OCT):
        with pytest.raises(ValueError, match="private or symmetric"):
            KeySet.parse(jwks(dict(secret)))


def test_one_name_may_be_that_of_keys_of_several_types() -> None:
    keys = KeySet.parse(jwks(public(RSA, kid="k1"), public(P256, kid="k1"), public(ED25519, kid="k1")))

    assert verifies(keys, sign(claims()), alg="EdDSA", kid="k1")
    assert verifies(keys, sign(claims(), P256, alg="ES256"), alg="ES256", kid="k1")
    assert keys.names("k1", "ES256")
    assert not keys.names("k1", "ES384")
    assert not keys.names(None, "ES256")


def test_without_a_name_every_key_that_fits_is_tried() -> None:
    others: list[dict[str, object]] = [dict(OKPKey.generate_key("Ed25519").as_dict(private=False), kid=f"o{index}") for index in range(5)]
    named = KeySet.parse(jwks(*others, public(ED25519, kid="k1")))
    nameless = KeySet.parse(jwks(*others, public(ED25519)))

    assert verifies(named, sign(claims(), kid=None), alg="EdDSA")
    assert verifies(nameless, sign(claims()), alg="EdDSA", kid="k1")
    assert not verifies(named, sign(claims()), alg="EdDSA", kid="o1")


def test_a_name_is_any_text() -> None:
    for kid in ("", "../../dev/null", "' OR 1=1 --", "\u00fc\U0001f511", "k" * 2000, "a\x00b"):
        keys = KeySet.parse(jwks(public(ED25519, kid=kid)))
        assert verifies(keys, sign(claims()), alg="EdDSA", kid=kid)
        assert not verifies(keys, sign(claims()), alg="EdDSA", kid=f"{kid}x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JWK Set"),
        (b"{}", "not a JWK Set"),
        (b'{"keys":{}}', "not a JWK Set"),
        (b'{"keys":[]}', "no key that verifies signatures$"),
        (b'{"keys":[7]}', "a key is not an object"),
        (json.dumps(public(ED25519)).encode(), "not a JWK Set"),
        (b'{"keys":[' + b"{}," * MOST_KEYS + b"{}]}", "more than 100 keys"),
    ],
)
def test_what_is_no_set_of_keys(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeySet.parse(text)


def test_sets_with_the_same_keys_are_equal() -> None:
    one, other = public(ED25519, kid="a"), public(P256, kid="b")

    assert KeySet.parse(jwks(one, other)) == KeySet.parse(jwks({**other, "x5t": "z"}, one))
    assert KeySet.parse(jwks(one)) != KeySet.parse(jwks(one, other))
    assert KeySet.parse(jwks(one)) != KeySet.parse(jwks({**one, "kid": "c"}))
