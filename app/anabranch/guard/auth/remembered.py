"""Principals whose credential was verified, so that it need not be verified again."""

from collections.abc import Callable
from typing import Final

from anabranch.core.metric import metric
from anabranch.core.principal import Principal

MOST_BYTES: Final = 16 * 1024 * 1024

REMEMBERED: Final = metric("gauge", "tokens_remembered", "auth", "Tokens that were verified, and need not be for a while.")


class Remembered:
    """By credential, or by its digest. Bounded: evicts what was verified first. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float], *, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most_bytes = most_bytes
        self._principals: dict[bytes, tuple[Principal, float]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._principals)

    def get(self, credential: bytes) -> Principal | None:
        found = self._principals.get(credential)
        if found is None:
            return None
        if self._clock() < found[1]:
            return found[0]
        self._discard(credential)
        return None

    def put(self, credential: bytes, principal: Principal, until: float) -> None:
        """Remember the principal until then."""
        self._discard(credential)
        self._principals[credential] = (principal, until)
        self._bytes += _size(credential, principal)
        while self._bytes > self._most_bytes:
            self._discard(next(iter(self._principals)))

    def clear(self) -> None:
        self._principals.clear()
        self._bytes = 0

    def _discard(self, credential: bytes) -> None:
        found = self._principals.pop(credential, None)
        if found is not None:
            self._bytes -= _size(credential, found[0])


def _size(credential: bytes, principal: Principal) -> int:
    return len(credential) + len(principal.credential) + len(principal.claims) + len(principal.value) + 500
