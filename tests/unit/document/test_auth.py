from pathlib import Path

import pytest

from anabranch.config.auth import Authentication
from anabranch.config.problems import Problems
from anabranch.document import auth
from anabranch.upstream.tls import TLSContexts
from tests.support.tokens import ED25519, OCT, jwks, public


def problems_of(**jwt: object) -> list[tuple[str, str, bool]]:
    """Path, message and whether it is a warning, of each problem of an authentication of kind jwt."""
    problems = Problems()
    found = {"users": Authentication.model_validate({"jwt": jwt})}
    auth.check_auth(found, TLSContexts(), problems, without_secrets=False)
    return [(one.path, one.message, one.is_warning) for one in [*problems.errors, *problems.warnings]]


def test_without_the_library_the_problem_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "find_spec", lambda _: None)

    assert problems_of(audience="shop", jwks_url="https://id.example/keys") == [
        ("auth.users.jwt", "an authentication of kind jwt needs the extra 'jwt': pip install 'anabranch[jwt]'", False)
    ]


def test_tokens_for_any_service_are_a_warning() -> None:
    assert problems_of(jwks_url="https://id.example/keys") == [
        ("auth.users.jwt", "tokens that the authority has issued for other services are accepted too", True)
    ]


def test_a_secret_shorter_than_its_hash_is_a_warning() -> None:
    assert problems_of(audience="shop", secret="x" * 32) == []
    for size, algorithms in ((31, ["HS256"]), (47, ["HS256", "HS384"]), (63, ["HS512"])):
        ((path, message, is_warning),) = problems_of(audience="shop", secret="x" * size, algorithms=algorithms)
        assert (path, is_warning) == ("auth.users.jwt.secret", True)
        assert message.startswith(f"the secret has fewer than {size + 1} bytes")


def test_keys_of_a_file_that_are_not_used_are_warnings(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(public(ED25519), dict(OCT), public(ED25519) | {"use": "enc"}))

    assert problems_of(audience="shop", jwks_file=str(file)) == [
        ("auth.users.jwt.jwks_file", "its key 1 is not used: a key is private or symmetric; it must not be published", True),
        ("auth.users.jwt.jwks_file", "its key 2 is not used: a key is not meant for signatures", True),
    ]
