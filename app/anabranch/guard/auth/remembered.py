"""Principals whose credential was verified, so that it need not be verified again."""

from collections.abc import Callable
from typing import Final

from anabranch.core.principal import Principal

MOST_BYTES: Final = 16 * 1024 * 1024


class Remembered:
    """By credential, until it expires. Bounded: evicts what was verified first. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float], *, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most_bytes = most_bytes
        self._principals: dict[bytes, Principal] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._principals)

    def get(self, credential: bytes) -> Principal | None:
        principal = self._principals.get(credential)
        if principal is None or self._clock() < principal.expires_at:
            return principal
        self._discard(credential)
        return None

    def put(self, credential: bytes, principal: Principal) -> None:
        self._discard(credential)
        self._principals[credential] = principal
        self._bytes += _size(credential, principal)
        while self._bytes > self._most_bytes:
            self._discard(next(iter(self._principals)))

    def clear(self) -> None:
        self._principals.clear()
        self._bytes = 0

    def _discard(self, credential: bytes) -> None:
        principal = self._principals.pop(credential, None)
        if principal is not None:
            self._bytes -= _size(credential, principal)


def _size(credential: bytes, principal: Principal) -> int:
    return len(credential) + len(principal.credential) + len(principal.claims) + len(principal.value) + 500
