"""Signed tokens: JSON Web Tokens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from anabranch.config.auth.jwt import JWT
from anabranch.core.metric import Sample, Sampled
from anabranch.core.principal import Principal
from anabranch.document.part import Noted
from anabranch.errors import ConfigError, Problem
from anabranch.guard.auth.authority import Authority
from anabranch.guard.auth.bearer import CHALLENGE, finder
from anabranch.guard.auth.keys import FetchedKeys, FixedKeys, Keys
from anabranch.guard.auth.remembered import REMEMBERED, Remembered
from anabranch.guard.auth.seam import CannotAuthenticate, Presented
from anabranch.guard.auth.token import Rules, Token, name_of, read, refused, subject_of, type_of
from anabranch.guard.tools import Tools

if TYPE_CHECKING:
    from anabranch.core.jose import KeySet


class JWTAuthenticator:
    """Verifies tokens by `rules` and with the keys of an authority. `subject`: the claim that identifies the client. `place`: where it is in requests. `make_keys`: makes their source, of what is to be called when they change.

    What costs nothing comes first: a token that says the wrong thing is refused before its signature is verified, and never makes a fetch of keys.
    """

    challenge = CHALLENGE

    def __init__(
        self,
        name: str,
        *,
        rules: Rules,
        subject: str,
        place: tuple[str, str],
        make_keys: Callable[[Callable[[], None]], Keys],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._rules = rules
        self._subject = subject
        self._find = finder(place)
        self._clock = clock
        self._remembered = Remembered(clock)
        self._keys = make_keys(self._remembered.clear)
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if isinstance(self._keys, AbstractAsyncContextManager):
            await self._exits.enter_async_context(self._keys)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    def recall(self, presented: Presented) -> Principal | None:
        sent = self._find(presented.headers)
        return None if sent is None else self._remembered.get(sent)

    def is_presented(self, presented: Presented) -> bool:
        return self._find(presented.headers) is not None

    async def authenticate(self, presented: Presented) -> Principal | None:
        sent = self._find(presented.headers)
        if sent is None:
            return None
        token = read(sent)
        expires_at = self._rules.check(token, self._clock())
        subject = subject_of(token.claims, self._subject)
        keys = await self._keys.current()
        if not _is_signed(token, keys):
            await self._try_newer(token, keys)
        principal = Principal(subject, name_of(token.claims, subject), self._name, token.text, sent, expires_at)
        self._remembered.put(sent, principal, expires_at)
        return principal

    async def _try_newer(self, token: Token, keys: "KeySet") -> None:
        """Raise unless others than these `keys` have signed the token: also some authorities change a key and keep its name."""
        is_known = keys.names(token.kid, token.algorithm)
        try:
            newer = await self._keys.newer(keys)
        except CannotAuthenticate:
            if not is_known:
                raise
            newer = None
        if newer is None or not _is_signed(token, newer):
            raise refused("signature" if is_known else "unknown_key")

    def samples(self) -> Iterator[Sample]:
        """See `core.metric.Sampled`."""
        yield Sample(REMEMBERED, (self._name,), len(self._remembered))
        if isinstance(self._keys, Sampled):
            yield from self._keys.samples()

    def notes(self) -> Iterator[str]:
        """See `document.part.Noted`."""
        if isinstance(self._keys, Noted):
            yield from self._keys.notes()


def _is_signed(token: Token, keys: "KeySet") -> bool:
    return keys.verify(algorithm=token.algorithm, kid=token.kid, signed=token.signed, signature=token.signature)


def build(name: str, source: JWT, tools: Tools) -> JWTAuthenticator:
    """Reads `jwks_file`. Raises ConfigError when it has become unusable since the document was checked."""
    from anabranch.core.jose import KeySet  # noqa: PLC0415 - of an extra, and slow to import

    types = [source.typ] if isinstance(source.typ, str) else source.typ
    rules = Rules(
        algorithms=frozenset(source.accepted),
        issuer=source.issuer,
        audiences=frozenset([source.audience] if isinstance(source.audience, str) else source.audience or ()),
        types=frozenset({*map(type_of, types), *(() if "typ" in source.model_fields_set else (None,))}),
        required=tuple(source.require),
        leeway_s=source.leeway_s,
    )

    def make_keys(on_change: Callable[[], None]) -> Keys:
        if source.secret is not None:
            return FixedKeys(KeySet.of_secret(source.secret.encode()))
        if source.jwks_file is not None:
            try:
                return FixedKeys(KeySet.parse(Path(source.jwks_file).read_bytes()))
            except (OSError, ValueError):
                raise ConfigError(
                    [Problem(file=source.jwks_file, line=0, column=0, path="", message="the key set cannot be read")]
                ) from None
        return FetchedKeys(
            name,
            Authority(name, source, tools.opener),
            url=source.jwks_url,
            issuer=source.issuer if source.jwks_url is None else None,
            refresh_s=source.refresh_s,
            keep_s=source.keep_s,
            parse=KeySet.parse,
            memory=tools.memory,
            clock=tools.clock,
            on_change=on_change,
        )

    return JWTAuthenticator(name, rules=rules, subject=source.subject, place=source.place, make_keys=make_keys, clock=tools.clock)
