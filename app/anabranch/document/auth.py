"""Checks of the document's authentications that only this process can make: optional libraries, and files that they name."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from anabranch.config.auth import JWT, Authentication, Basic, Bearer
from anabranch.config.auth.basic import users_of
from anabranch.config.auth.jwt import SECRET_BYTES
from anabranch.config.problems import Problems
from anabranch.errors import MissingExtraError
from anabranch.plan.upstream import compile_tls
from anabranch.upstream.tls import TLSContexts


def files_of(auth: Mapping[str, Authentication]) -> Iterator[str]:
    """The files that are read for them, besides those of `${file:PATH}`."""
    for source in auth.values():
        if isinstance(source.kind, Bearer) and source.kind.tls is not None:
            yield from compile_tls(source.kind.tls).files
        if source.jwt is not None and source.jwt.jwks_file is not None:
            yield source.jwt.jwks_file


def check_auth(auth: Mapping[str, Authentication], contexts: TLSContexts, problems: Problems, *, without_secrets: bool) -> None:
    """Report what cannot be used. `without_secrets`: files that do not exist here are warnings."""
    for name, source in auth.items():
        kind = source.kind
        if isinstance(kind, Bearer) and kind.tls is not None:
            try:
                contexts.get(compile_tls(kind.tls))
            except ValueError as error:
                problems.add(("auth", name, *source.model_fields_set, "tls"), str(error), is_warning=without_secrets)
        if source.basic is not None:
            _check_basic(source.basic, ("auth", name, "basic"), problems)
        if source.jwt is not None:
            _check_jwt(source.jwt, ("auth", name, "jwt"), problems, without_secrets=without_secrets)


def _check_basic(basic: Basic, at: tuple[str, ...], problems: Problems) -> None:
    needed = {"argon2" if digest.startswith("$argon2") else "bcrypt" for digest in users_of(basic.users).values()}
    if any(find_spec(module) is None for module in needed):
        problems.add(at, str(MissingExtraError("an authentication of kind basic", "basic")))


def _check_jwt(jwt: JWT, at: tuple[str, ...], problems: Problems, *, without_secrets: bool) -> None:
    if jwt.audience is None:
        message = "tokens that the authority has issued for other services are accepted too"
        problems.add(at, message, hint="set `audience`", is_warning=True)
    if find_spec("joserfc") is None:
        problems.add(at, str(MissingExtraError("an authentication of kind jwt", "jwt")))
        return
    from anabranch.core.jose import KeySet  # noqa: PLC0415 - of an extra, and slow to import

    if jwt.secret is not None:
        secret = jwt.secret.encode()
        needed, algorithm = max((SECRET_BYTES[algorithm], algorithm) for algorithm in jwt.accepted)
        if len(secret) < needed:
            message = f"the secret has fewer than {needed} bytes, as many as {algorithm} needs to be safe (RFC 7518 section 3.2)"
            problems.add((*at, "secret"), message, is_warning=True)
        try:
            KeySet.of_secret(secret)
        except ValueError as error:
            problems.add((*at, "secret"), str(error))
    if jwt.jwks_file is not None:
        try:
            keys = KeySet.parse(Path(jwt.jwks_file).read_bytes())
        except OSError as error:
            problems.add((*at, "jwks_file"), f"cannot read the file: {error.strerror}", is_warning=without_secrets)
        except ValueError as error:
            problems.add((*at, "jwks_file"), f"the file has no usable keys: {error}")
        else:
            for index, reason in keys.unusable.items():
                problems.add((*at, "jwks_file"), f"its key {index} is not used: {reason}", is_warning=True)
