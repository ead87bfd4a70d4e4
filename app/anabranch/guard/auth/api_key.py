"""API keys: secrets of which the document knows the digests."""

from collections.abc import Callable
from hashlib import sha256
from time import time
from typing import Final, NamedTuple

import msgspec

from anabranch.config.auth.api_key import APIKeys
from anabranch.core.cookies import first_cookie
from anabranch.core.percent import parse_query
from anabranch.core.principal import Principal
from anabranch.guard.auth.seam import InvalidCredential, Presented
from anabranch.guard.tools import Tools

_MOST_BYTES: Final = 1024


class _Key(NamedTuple):
    principal: Principal
    is_disabled: bool


class APIKeyAuthenticator:
    """Finds the client by the digest of its key. The duration of a look-up among digests tells nothing of the keys."""

    def __init__(self, name: str, source: APIKeys, clock: Callable[[], float] = time) -> None:
        where, place = source.place
        self.challenge = f'ApiKey in="{where}", name="{place}"'
        self._find = _FINDERS[where](place)
        self._clock = clock
        self._keys = {
            bytes.fromhex(key.sha256): _Key(
                Principal(key.name, key.name, name, msgspec.json.encode(key.metadata), expires_at=key.expires_at), key.disabled
            )
            for key in source.keys
        }

    def recall(self, presented: Presented) -> Principal | None:
        key = self._find(presented)
        found = None if key is None else self._keys.get(sha256(key).digest())
        return None if found is None or found.is_disabled or found.principal.expires_at <= self._clock() else found.principal

    def is_presented(self, presented: Presented) -> bool:
        return self._find(presented) is not None

    async def authenticate(self, presented: Presented) -> Principal | None:
        key = self._find(presented)
        if key is None:
            return None
        if len(key) > _MOST_BYTES:
            raise InvalidCredential("too_long")
        found = self._keys.get(sha256(key).digest())
        if found is None:
            raise InvalidCredential("unknown")
        if found.is_disabled:
            raise InvalidCredential("disabled")
        if found.principal.expires_at <= self._clock():
            raise InvalidCredential("expired")
        return found.principal


Finder = Callable[[Presented], bytes | None]


def _in_header(name: str) -> Finder:
    field = name.encode()
    return lambda presented: presented.headers.get(field)


def _in_cookie(name: str) -> Finder:
    wanted = name.encode()
    return lambda presented: first_cookie(presented.headers.get(b"cookie", b""), wanted)


def _in_query(name: str) -> Finder:
    def find(presented: Presented) -> bytes | None:
        values = parse_query(presented.query).get(name)
        return None if values is None else (values[0] or "").encode()

    return find


_FINDERS: Final[dict[str, Callable[[str], Finder]]] = {"header": _in_header, "cookie": _in_cookie, "query": _in_query}


def build(name: str, source: APIKeys, tools: Tools) -> APIKeyAuthenticator:
    return APIKeyAuthenticator(name, source, tools.clock)
